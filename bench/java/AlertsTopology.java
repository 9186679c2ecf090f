// The topology of alerting-svc as a team would write it in Kafka Streams: readings joined with a global table of rules,
// episodes in a store with a changelog, exactly once. Rules come by sensor, those of the whole fleet under "*". Both stores
// are in memory, which is the faster choice.

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.ValueAndTimestamp;

public final class AlertsTopology {
    private static final ObjectMapper MAPPER = new ObjectMapper();

    @JsonIgnoreProperties(ignoreUnknown = true)
    public static final class Reading {
        public String eventId;
        public String sensorId;
        public String deviceType;
        public String zoneId;
        public Map<String, Double> values;
        public String readingAt;
        public String receivedAt;
    }

    public static final class Rule {
        public String thresholdId;
        public String metric;
        public Double min;
        public Double max;
        public String severity;
        public long version;
    }

    public static final class Alert {
        public String alertId;
        public String status;
        public String episodeId;
        public String episode;
        public String reason;
        public String sensorId;
        public String metric;
        public double value;
        public Map<String, Object> bound;
        public String severity;
        public String thresholdId;
        public long thresholdVersion;
        public String zoneId;
        public String deviceType;
        public String eventId;
        public String readingAt;
        public String detectedAt;
        public String openedAt;
    }

    public static void main(String[] arguments) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", setting("BOOTSTRAP"));
        settings.put("application.id", setting("GROUP"));
        settings.put("state.dir", setting("STATE_DIR"));
        settings.put("num.stream.threads", setting("THREADS"));
        settings.put("processing.guarantee", "exactly_once_v2");
        settings.put("commit.interval.ms", setting("COMMIT_MS"));
        settings.put("replication.factor", "1");
        settings.put("consumer.auto.offset.reset", "earliest");
        settings.put("producer.compression.type", "lz4");
        StreamsBuilder builder = new StreamsBuilder();
        builder.globalTable(
            setting("RULES"),
            Consumed.with(Serdes.String(), rules()),
            Materialized.<String, Rule[]>as(Stores.inMemoryKeyValueStore("rules"))
                .withKeySerde(Serdes.String())
                .withValueSerde(rules()));
        builder.addStateStore(
            Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore("episodes"), Serdes.String(), Serdes.String())
                .withLoggingEnabled(Map.of()));
        builder.stream(setting("READINGS"), Consumed.with(Serdes.String(), Serdes.ByteArray()))
            .process(Evaluator::new, "episodes")
            .to(setting("ALERTS"), Produced.with(Serdes.String(), Serdes.ByteArray()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            // Not exit: its hooks wait for threads that may be stuck.
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
    }

    private static String setting(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }

    private static Serde<Rule[]> rules() {
        ObjectReader reader = MAPPER.readerFor(Rule[].class);
        ObjectWriter writer = MAPPER.writerFor(Rule[].class);
        return Serdes.serdeFrom(
            (topic, rules) -> {
                try {
                    return rules == null ? null : writer.writeValueAsBytes(rules);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            },
            (topic, bytes) -> {
                try {
                    return bytes == null ? null : reader.readValue(bytes);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            });
    }

    private static final class Evaluator implements Processor<String, byte[], String, byte[]> {
        private final ObjectReader reader = MAPPER.readerFor(Reading.class);
        private final ObjectWriter writer = MAPPER.writerFor(Alert.class);
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, ValueAndTimestamp<Rule[]>> rules;
        private KeyValueStore<String, String> episodes;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            rules = context.getStateStore("rules");
            episodes = context.getStateStore("episodes");
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                Reading reading = reader.readValue(record.value());
                evaluate(record, reading, rules.get(reading.sensorId));
                evaluate(record, reading, rules.get("*"));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private void evaluate(Record<String, byte[]> record, Reading reading, ValueAndTimestamp<Rule[]> applying)
            throws IOException {
            if (applying == null) {
                return;
            }
            for (Rule rule : applying.value()) {
                Double value = reading.values.get(rule.metric);
                if (value == null) {
                    continue;
                }
                String key = rule.thresholdId + reading.sensorId;
                String opened = episodes.get(key);
                boolean above = rule.max != null && value > rule.max;
                boolean below = rule.min != null && value < rule.min;
                if (above || below) {
                    String first = opened == null ? reading.readingAt : opened;
                    if (opened == null) {
                        episodes.put(key, first);
                    }
                    Map<String, Object> bound =
                        Map.of("limit", above ? "max" : "min", "value", above ? rule.max : rule.min);
                    String episode = opened == null ? "opened" : "continuing";
                    Alert alert = alert(reading, rule, value, bound, first, "firing", episode, above ? "above" : "below");
                    context.forward(record.withValue(writer.writeValueAsBytes(alert)));
                } else if (opened != null) {
                    episodes.delete(key);
                    Map<String, Object> bound = Map.of("limit", "max", "value", rule.max);
                    Alert alert = alert(reading, rule, value, bound, opened, "resolved", "closed", "recovered");
                    context.forward(record.withValue(writer.writeValueAsBytes(alert)));
                }
            }
        }

        private static Alert alert(Reading reading, Rule rule, double value, Map<String, Object> bound, String opened,
            String status, String episode, String reason) {
            Alert alert = new Alert();
            alert.alertId = id(rule.thresholdId + rule.version + reading.eventId);
            alert.episodeId = id(rule.thresholdId + reading.sensorId + opened);
            alert.status = status;
            alert.episode = episode;
            alert.reason = reason;
            alert.sensorId = reading.sensorId;
            alert.metric = rule.metric;
            alert.value = value;
            alert.bound = bound;
            alert.severity = rule.severity;
            alert.thresholdId = rule.thresholdId;
            alert.thresholdVersion = rule.version;
            alert.zoneId = reading.zoneId;
            alert.deviceType = reading.deviceType;
            alert.eventId = reading.eventId;
            alert.readingAt = reading.readingAt;
            alert.detectedAt = Instant.now().toString();
            alert.openedAt = opened;
            return alert;
        }

        private static String id(String name) {
            return UUID.nameUUIDFromBytes(name.getBytes(StandardCharsets.UTF_8)).toString();
        }
    }
}

// A plain Java consumer: what a team would write first. One Kafka consumer and one connection per thread, JDBC batches
// that the driver rewrites to multi-row inserts, rows before offsets. It keeps no read model.

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Types;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class JdbcConsumer {
    private static final String INSERT = "INSERT INTO readings_ingestion"
        + " (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)"
        + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb) ON CONFLICT DO NOTHING";

    @JsonIgnoreProperties(ignoreUnknown = true)
    public static final class Reading {
        public UUID eventId;
        public String sensorId;
        public String deviceType;
        public String zoneId;
        public Map<String, Double> values;
        public Map<String, Object> attributes;
        public String readingAt;
        public String receivedAt;
    }

    public static void main(String[] arguments) throws Exception {
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < Integer.parseInt(setting("THREADS")); number++) {
            Thread thread = new Thread(JdbcConsumer::consume);
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
    }

    private static String setting(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", setting("BOOTSTRAP"));
        settings.put("group.id", setting("GROUP"));
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.poll.records", setting("BATCH_RECORDS"));
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        return new KafkaConsumer<>(settings);
    }

    private static void consume() {
        ObjectMapper mapper = new ObjectMapper();
        ObjectReader reader = mapper.readerFor(Reading.class);
        String url = setting("JDBC_URL") + "?reWriteBatchedInserts=true";
        try (KafkaConsumer<byte[], byte[]> consumer = consumer();
            Connection connection = DriverManager.getConnection(url, setting("DB_USER"), setting("DB_PASSWORD"))) {
            connection.setAutoCommit(false);
            consumer.subscribe(List.of(setting("TOPIC")));
            try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
                while (true) {
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
                    if (records.isEmpty()) {
                        continue;
                    }
                    for (ConsumerRecord<byte[], byte[]> record : records) {
                        add(insert, reader.readValue(record.value()), mapper);
                    }
                    insert.executeBatch();
                    connection.commit();
                    consumer.commitSync();
                }
            }
        } catch (Throwable error) {
            error.printStackTrace();
            // A batch that fails keeps the server's own words in a chain beside the cause.
            if (error instanceof SQLException first) {
                for (SQLException next = first.getNextException(); next != null; next = next.getNextException()) {
                    System.err.println("then: " + next);
                }
            }
            // Not exit: its hooks wait for threads that may be stuck.
            Runtime.getRuntime().halt(1);
        }
    }

    private static void add(PreparedStatement insert, Reading reading, ObjectMapper mapper) throws Exception {
        OffsetDateTime readingAt = OffsetDateTime.parse(reading.readingAt);
        OffsetDateTime receivedAt = OffsetDateTime.parse(reading.receivedAt);
        String attributes = reading.attributes == null ? null : mapper.writeValueAsString(reading.attributes);
        for (Map.Entry<String, Double> value : reading.values.entrySet()) {
            insert.setString(1, reading.sensorId);
            insert.setString(2, value.getKey());
            insert.setObject(3, readingAt);
            insert.setDouble(4, value.getValue());
            insert.setObject(5, reading.eventId);
            insert.setObject(6, receivedAt);
            insert.setString(7, reading.deviceType);
            insert.setString(8, reading.zoneId);
            if (attributes == null) {
                insert.setNull(9, Types.VARCHAR);
            } else {
                insert.setString(9, attributes);
            }
            insert.addBatch();
        }
    }
}

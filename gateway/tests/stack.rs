//! A gateway of one test's own, and the devices it knows.

use crate::raw::Client;
use chassis::Chassis;
use chassis::config::Env;
use gateway::{Config, Listeners};
use iotctl::pki::DeviceCertificate;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use schema::dead_letter::DeadLetter;
use schema::{
    Change, DeviceKey, DeviceRow, DeviceStatus, Op, ReadingCreatedEvent, Source, Timestamp, topics,
};
use std::time::Duration;
use testkit::kafka::{Kafka, Reader, Record, SCALED_PARTITIONS};
use testkit::pki::TestPki;
use testkit::wait;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running gateway with its own certificates and topics.
pub(crate) struct Stack {
    pub(crate) pki: TestPki,
    pub(crate) kafka: Kafka,
    pub(crate) chassis: Chassis,
    pub(crate) port: u16,
    pub(crate) http_port: Option<u16>,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
}

/// A registered device.
pub(crate) struct Registered {
    pub(crate) sensor_id: String,
    pub(crate) certificate: DeviceCertificate,
    row: DeviceRow,
}

impl Registered {
    pub(crate) fn mqtt_topic(&self) -> String {
        format!("devices/{}/readings", self.sensor_id)
    }
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a gateway with settings beside the necessary ones, and waits until it is ready.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::with_pki(TestPki::create(), settings).await
    }

    /// The same with certificates that are there already.
    pub(crate) async fn with_pki(pki: TestPki, settings: &[(&str, &str)]) -> Self {
        let stack = Self::boot_with(pki, Kafka::create().await, settings).await;
        // Before it has begun it has no latch that is closed.
        wait::until("the gateway is ready", async || stack.chassis.readiness.is_ready().then_some(())).await;
        stack
    }

    pub(crate) async fn boot(kafka: Kafka, settings: &[(&str, &str)]) -> Self {
        Self::boot_with(TestPki::create(), kafka, settings).await
    }

    pub(crate) async fn boot_with(pki: TestPki, kafka: Kafka, settings: &[(&str, &str)]) -> Self {
        chassis::install_tls_provider();
        let file = |name: &str| pki.path(name).to_string_lossy().into_owned();
        let variables = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap.clone()),
            ("KAFKA_TOPIC_PREFIX", kafka.prefix.clone()),
            ("MQTT_LISTEN", "127.0.0.1:0".to_owned()),
            ("TLS_CERT_FILE", file("server.pem")),
            ("TLS_KEY_FILE", file("server.key")),
            ("TLS_CLIENT_CA_FILE", file("device-ca.pem")),
        ];
        let own = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let mut env = Env::of(variables.into_iter().chain(own).map(|(name, value)| (name.to_owned(), value)));
        let config = Config::from_env(&mut env);
        env.finish().unwrap();
        let mqtt = TcpListener::bind(config.listen).await.unwrap();
        let port = mqtt.local_addr().unwrap().port();
        let http = match config.http_listen {
            Some(address) => Some(TcpListener::bind(address).await.unwrap()),
            None => None,
        };
        let http_port = http.as_ref().map(|http| http.local_addr().unwrap().port());
        let chassis = Chassis::new();
        let running = tokio::spawn(gateway::serve(Listeners { mqtt, http }, config, chassis.clone()));
        Self { pki, kafka, chassis, port, http_port, running }
    }

    /// Makes a certificate, registers it, and waits until the gateway knows it.
    pub(crate) async fn register(&self, sensor_id: &str) -> Registered {
        self.register_as(sensor_id, DeviceStatus::Active).await
    }

    pub(crate) async fn register_as(&self, sensor_id: &str, status: DeviceStatus) -> Registered {
        self.register_with(sensor_id, status, self.pki.device(sensor_id)).await
    }

    pub(crate) async fn register_with(
        &self,
        sensor_id: &str,
        status: DeviceStatus,
        certificate: DeviceCertificate,
    ) -> Registered {
        let now = Timestamp::now();
        let row = DeviceRow {
            sensor_id: sensor_id.to_owned(),
            display_name: String::new(),
            device_type: "THERMOSTAT".to_owned(),
            zone_id: "zone-1".to_owned(),
            codec: "json".to_owned(),
            codec_layout: None,
            status,
            fingerprints: vec![certificate.fingerprint_sha256_hex.clone()],
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let registered = Registered { sensor_id: sensor_id.to_owned(), certificate, row };
        let known = self.metric("gateway_devices");
        self.change(&registered, |_| {}).await;
        wait::until("the gateway knows the device", async || {
            (self.metric("gateway_devices") > known).then_some(())
        })
        .await;
        registered
    }

    /// Publishes a changed row of a device, as change data capture does.
    pub(crate) async fn change(&self, device: &Registered, change: impl FnOnce(&mut DeviceRow)) {
        self.change_at(device, None, change).await;
    }

    /// The same with a place in the WAL.
    pub(crate) async fn change_at(
        &self,
        device: &Registered,
        lsn: Option<u64>,
        change: impl FnOnce(&mut DeviceRow),
    ) {
        let mut row = device.row.clone();
        change(&mut row);
        let source = Source { lsn, ..Source::default() };
        let change = Change { op: Op::Update, before: None, after: Some(row), source, ts_ms: 0 };
        let key = serde_json::to_string(&DeviceKey { sensor_id: device.sensor_id.clone() }).unwrap();
        let value = serde_json::to_vec(&change).unwrap();
        self.kafka.produce(topics::DEVICE_UPDATES, &key, Some(&value)).await;
    }

    /// The sum of a metric over its labels; 0 while it has none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| {
            let values = family.get_metric().iter();
            values.map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
        })
    }

    /// A metric's value under one label; 0 while it has none.
    pub(crate) fn metric_of(&self, name: &str, label: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let metrics =
            families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let mut labelled =
            metrics.filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        labelled.next().map_or(0.0, |metric| metric.get_counter().get_value())
    }

    /// A gauge's value under one label; 0 while it has none.
    pub(crate) fn gauge_of(&self, name: &str, label: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let metrics =
            families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let mut labelled =
            metrics.filter(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        labelled.next().map_or(0.0, |metric| metric.get_gauge().get_value())
    }

    /// Connects a device over TLS, without a word of MQTT.
    pub(crate) async fn dial(&self, device: &Registered) -> Client {
        Client::dial(self.port, &self.pki.root_pem(), Some(&device.certificate)).await.unwrap()
    }

    /// Has Kafka refuse every reading for good: no record is as small as the topic now demands.
    pub(crate) async fn refuse_readings(&self) {
        self.refuse_larger_than(topics::READINGS, 10).await;
    }

    /// Has Kafka refuse for good what is larger.
    pub(crate) async fn refuse_larger_than(&self, topic: topics::Topic, bytes: usize) {
        let settings = self.kafka.settings();
        let topic = settings.topic(topic.name);
        let admin: AdminClient<_> = settings.client().create().unwrap();
        let bytes_max = bytes.to_string();
        let alter = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", &bytes_max);
        for outcome in admin.alter_configs([&alter], &AdminOptions::new()).await.unwrap() {
            outcome.unwrap();
        }
        let probe: FutureProducer = settings.producer().set("compression.type", "none").create().unwrap();
        let text = "x".repeat(bytes);
        for partition in 0..SCALED_PARTITIONS {
            wait::until("every partition refuses", async || {
                // Without headers, so that nobody takes it for a reading.
                let record = FutureRecord::<str, str>::to(&topic).partition(partition).payload(&text);
                probe.send(record, Timeout::Never).await.is_err().then_some(())
            })
            .await;
        }
    }

    /// Starts a gateway whose readings Kafka cannot take, until [`Stack::release_readings`].
    pub(crate) async fn stalled(settings: &[(&str, &str)]) -> Self {
        let kafka = Kafka::create().await;
        let topic = kafka.settings().topic(topics::READINGS.name);
        let admin: AdminClient<_> = kafka.settings().client().create().unwrap();
        for outcome in admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap() {
            outcome.unwrap();
        }
        // The broker removes it behind its answer; a gateway that still sees it takes Kafka for well.
        let reader: BaseConsumer = kafka.settings().client().create().unwrap();
        wait::until("the topic is gone", async || {
            let metadata = reader.fetch_metadata(Some(&topic), ANSWER_WAIT).ok()?;
            metadata.topics()[0].error().map(|_| ())
        })
        .await;
        let stack = Self::boot(kafka, settings).await;
        wait::until("only Kafka is missing", async || {
            (stack.chassis.readiness.closed() == ["kafka"]).then_some(())
        })
        .await;
        stack
    }

    /// Ends what [`Stack::stalled`] began.
    pub(crate) async fn release_readings(&self) {
        let settings = self.kafka.settings();
        let topic = settings.topic(topics::READINGS.name);
        let admin: AdminClient<_> = settings.client().create().unwrap();
        let new = NewTopic::new(&topic, SCALED_PARTITIONS, TopicReplication::Fixed(1));
        for outcome in admin.create_topics([&new], &AdminOptions::new()).await.unwrap() {
            outcome.unwrap();
        }
        // A reader that does not see them yet would read none of them, for ever.
        let reader: BaseConsumer = settings.client().create().unwrap();
        wait::until("its partitions are there", async || {
            let metadata = reader.fetch_metadata(Some(&topic), ANSWER_WAIT).ok()?;
            let count = i32::try_from(metadata.topics()[0].partitions().len()).unwrap();
            (count == SCALED_PARTITIONS).then_some(())
        })
        .await;
    }
}

/// What a dead letter says, read as a replay reads it.
pub(crate) fn letter_of(record: &Record) -> DeadLetter {
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
    DeadLetter::read(headers).unwrap()
}

/// Timeout of a question to the broker; it is asked again.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The next reading of a topic.
pub(crate) async fn next_reading(readings: &Reader) -> ReadingCreatedEvent {
    let record = readings.find(|record| record.header("schema").is_some()).await;
    assert_eq!(record.header("schema"), Some(ReadingCreatedEvent::SCHEMA));
    let event: ReadingCreatedEvent = serde_json::from_str(record.text()).unwrap();
    assert_eq!(record.key, event.sensor_id.as_bytes(), "a reading's key is its sensor");
    event
}

/// How long nothing may come before it counts as nothing.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

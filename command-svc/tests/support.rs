//! A running service and readings to feed it.

use chassis::Chassis;
use chassis::kafka::Settings;
use command_svc::Config;
use command_svc::batch::{Batch, Limits};
use command_svc::parcel::Parcel;
use command_svc::retention::Retention;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::postgres::Database;
use tokio::task::JoinHandle;

/// Small, so that a test fills more than one batch.
pub(crate) const LIMITS: Limits =
    Limits { rows_ready: 50, age_max: Duration::from_millis(20), rows_max: 500, bytes_max: 1 << 20 };

pub(crate) fn reading(sensor_id: &str, number: u32, at: &str, value: f64) -> ReadingCreatedEvent {
    let reading_at = Timestamp::parse(at).unwrap();
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(sensor_id, &number.to_string()),
        sensor_id: sensor_id.into(),
        device_type: "THERMOSTAT".into(),
        zone_id: "kitchen".into(),
        values: [("temperature".to_owned(), value)].into(),
        attributes: serde_json::Map::new(),
        reading_at,
        received_at: reading_at,
    }
}

pub(crate) async fn produce(kafka: &Kafka, reading: &ReadingCreatedEvent) {
    let value = serde_json::to_vec(reading).unwrap();
    kafka.produce(topics::READINGS, &reading.sensor_id, Some(&value)).await;
}

pub(crate) struct Service {
    pub(crate) chassis: Chassis,
    task: JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn config(kafka: &Kafka, database_url: &str) -> Config {
    config_at(kafka.settings(), database_url)
}

pub(crate) fn config_at(kafka: Settings, database_url: &str) -> Config {
    Config {
        kafka,
        postgres: chassis::postgres::Settings::local(database_url),
        limits: LIMITS,
        writers: 2,
        instance_id: None,
        stall_max: Duration::from_secs(120),
        data_retry_first: Duration::from_millis(10),
        retention: Retention::FOR_EVER,
        episode_days: 400,
        partitions_ahead_days: 3,
        maintenance_every: Duration::from_millis(100),
    }
}

impl Service {
    pub(crate) fn start(kafka: &Kafka, database_url: &str) -> Self {
        Self::start_with(config(kafka, database_url))
    }

    pub(crate) fn start_with(config: Config) -> Self {
        let chassis = Chassis::new();
        let task = tokio::spawn(command_svc::run(config, chassis.clone()));
        Self { chassis, task }
    }

    /// Waits until every latch is open.
    pub(crate) async fn ready(&self) {
        testkit::wait::until("readiness", async || self.chassis.readiness.closed().is_empty().then_some(()))
            .await;
    }

    /// Waits until the database counts as away.
    pub(crate) async fn not_ready(&self) {
        testkit::wait::until("not ready", async || {
            self.chassis.readiness.closed().contains(&"postgres").then_some(())
        })
        .await;
    }

    /// Returns the value of a gauge or counter, once it is registered.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let families = self.chassis.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let metric = &family.get_metric()[0];
        Some(metric.get_gauge().get_value() + metric.get_counter().get_value())
    }

    /// Stops as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.chassis.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it has ended by itself, and returns why.
    pub(crate) async fn ended(self) -> anyhow::Error {
        let ended = tokio::time::timeout(testkit::wait::PATIENCE, self.task).await;
        ended.expect("it goes on").unwrap().unwrap_err()
    }

    /// Stops in the middle of whatever it does, without a drain.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) async fn rows_reach(database: &Database, count: i64) {
    testkit::wait::until(&format!("{count} rows"), async || {
        (database.count("SELECT count(*) FROM readings_ingestion").await >= count).then_some(())
    })
    .await;
}

/// Decodes readings as if they came from Kafka.
pub(crate) fn batch(readings: &[ReadingCreatedEvent]) -> Batch {
    let mut parcel = Parcel::new("".into());
    for (offset, reading) in readings.iter().enumerate() {
        let value = Some(serde_json::to_vec(reading).unwrap());
        let (offset, at) = (i64::try_from(offset).unwrap(), rdkafka::Timestamp::NotAvailable);
        parcel.push_owned(&OwnedMessage::new(value, None, String::new(), at, 0, offset, None));
    }
    let mut batch = Batch::default();
    batch.push(parcel);
    batch
}

/// Returns how many records the group has committed, over all partitions.
pub(crate) fn committed(kafka: &Kafka) -> i64 {
    let settings = kafka.settings();
    let consumer: BaseConsumer = settings.consumer("command-svc").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in 0..testkit::kafka::SCALED_PARTITIONS {
        partitions.add_partition(&settings.topic(topics::READINGS.name), partition);
    }
    let committed = consumer.committed_offsets(partitions, Duration::from_secs(30)).unwrap();
    let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
    committed.elements().iter().map(|partition| offset(partition.offset())).sum()
}

/// Returns the ids of the group's members; none while a rebalance is under way.
pub(crate) fn members(kafka: &Kafka) -> Vec<String> {
    let settings = kafka.settings();
    let consumer: BaseConsumer = settings.consumer("members").create().unwrap();
    let groups = consumer.fetch_group_list(Some(&settings.group("command-svc")), Duration::from_secs(30));
    let groups = groups.unwrap();
    let stable = groups.groups().iter().filter(|group| group.state() == "Stable");
    stable.flat_map(|group| group.members()).map(|member| member.id().to_owned()).collect()
}

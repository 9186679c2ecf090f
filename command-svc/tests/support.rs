//! A running service and readings to feed it.

use chassis::Chassis;
use command_svc::Config;
use command_svc::batch::Limits;
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

impl Service {
    pub(crate) fn start(kafka: &Kafka, database_url: &str) -> Self {
        let config = Config {
            kafka: kafka.settings(),
            postgres: chassis::postgres::Settings::local(database_url),
            limits: LIMITS,
            writers: 2,
            data_retry_first: Duration::from_millis(10),
        };
        let chassis = Chassis::new();
        let task = tokio::spawn(command_svc::run(config, chassis.clone()));
        Self { chassis, task }
    }

    /// Stops as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.chassis.shutdown.cancel();
        self.task.await.unwrap().unwrap();
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

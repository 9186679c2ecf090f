//! One service and its topics.

use alerting_svc::Config;
use chassis::Chassis;
use schema::topics::{self, Topic};
use schema::{Alert, Mode, ReadingCreatedEvent, Scope, ThresholdRow, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;
use testkit::kafka::{Kafka, Reader, Record};
use testkit::wait::until;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The metric of a threshold that every reading violates: its alert says that the reading has been evaluated.
pub(crate) const MARKER: &str = "marker";

pub(crate) struct Stage {
    pub(crate) kafka: Kafka,
}

pub(crate) struct Service {
    pub(crate) chassis: Chassis,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

/// A process of its own, so that it can be killed.
pub(crate) struct Process(Child);

/// A threshold as the table holds it.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) id: Uuid,
    pub(crate) scope: Scope,
    pub(crate) metric: &'static str,
    pub(crate) max: f64,
    pub(crate) mode: Mode,
    pub(crate) version: i64,
    /// Columns beside these.
    pub(crate) more: Value,
}

impl Rule {
    pub(crate) fn new(sensor: &str, max: f64) -> Self {
        let id = Uuid::from_u128(Uuid::new_v4().as_u128() >> 1);
        let scope = Scope::Sensor(sensor.to_owned());
        Self { id, scope, metric: "temperature", max, mode: Mode::Live, version: 1, more: json!({}) }
    }

    /// Sorts after every other threshold of the sensor, so that its alert comes last.
    pub(crate) fn marker(sensor: &str) -> Self {
        Self { id: Uuid::from_u128(u128::MAX), metric: MARKER, ..Self::new(sensor, 0.0) }
    }

    /// As the service holds it.
    pub(crate) fn as_row(&self) -> ThresholdRow {
        serde_json::from_value(self.row()).unwrap()
    }

    fn row(&self) -> Value {
        let mut row = json!({
            "threshold_id": self.id, "metric": self.metric, "min_value": null, "max_value": self.max,
            "severity": "critical", "mode": self.mode, "description": "", "version": self.version,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
        });
        let scope = serde_json::to_value(&self.scope).unwrap();
        row.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
        row.as_object_mut().unwrap().extend(self.more.as_object().unwrap().clone());
        row
    }
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self { kafka: Kafka::create().await }
    }

    pub(crate) fn start(&self, instance: &str) -> Service {
        let chassis = Chassis::new();
        let config = Config {
            kafka: self.kafka.settings(),
            instance_id: instance.to_owned(),
            alerts_remembered: 1_000,
            stall_max: Duration::from_secs(30),
        };
        Service { task: tokio::spawn(alerting_svc::run(config, chassis.clone())), chassis }
    }

    pub(crate) fn spawn(&self, instance: &str) -> Process {
        let process = testkit::process::command(env!("CARGO_BIN_EXE_alerting-svc"))
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap)
            .env("KAFKA_TOPIC_PREFIX", &self.kafka.prefix)
            .env("INSTANCE_ID", instance)
            .env("LOG", "warn")
            .stdin(Stdio::null())
            .spawn();
        Process(process.unwrap())
    }

    pub(crate) async fn put(&self, rule: &Rule) {
        let op = if rule.version == 1 { "c" } else { "u" };
        let change = json!({"op": op, "before": null, "after": rule.row(), "source": {}, "ts_ms": 0});
        self.rule_record(rule, Some(change)).await;
    }

    pub(crate) async fn delete(&self, rule: &Rule) {
        let change = json!({"op": "d", "before": rule.row(), "after": null, "source": {}, "ts_ms": 0});
        self.rule_record(rule, Some(change)).await;
        self.rule_record(rule, None).await;
    }

    pub(crate) async fn rule_record(&self, rule: &Rule, change: Option<Value>) {
        let key = json!({"threshold_id": rule.id}).to_string();
        let value = change.map(|change| change.to_string().into_bytes());
        self.kafka.produce(topics::THRESHOLD_UPDATES, &key, value.as_deref()).await;
    }

    pub(crate) async fn publish(&self, reading: &ReadingCreatedEvent) {
        let value = serde_json::to_vec(reading).unwrap();
        self.kafka.produce(topics::READINGS, &reading.sensor_id, Some(&value)).await;
    }

    /// Puts a row of another table.
    pub(crate) async fn put_row(&self, topic: Topic, key: Value, row: Value) {
        let change = json!({"op": "c", "before": null, "after": row, "source": {}, "ts_ms": 0});
        self.kafka.produce(topic, &key.to_string(), Some(change.to_string().as_bytes())).await;
    }

    pub(crate) fn alerts(&self) -> Reader {
        self.kafka.read(topics::ALERTS)
    }
}

impl Service {
    pub(crate) async fn is_ready(&self) {
        let ready = async || {
            assert!(!self.task.is_finished(), "the service has ended");
            // The latches exist once the metrics do.
            let begun = !self.chassis.registry.gather().is_empty();
            (begun && self.chassis.readiness.closed().is_empty()).then_some(())
        };
        until("the service to be ready", ready).await;
    }

    /// Returns the value of a counter or gauge without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| family.get_metric().first());
        metric.map_or(0.0, |metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
    }

    pub(crate) async fn stop(self) {
        self.chassis.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Process {
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Err means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A reading of its own event, with a value for the marker as well.
pub(crate) fn reading(sensor: &str, temperature: f64) -> ReadingCreatedEvent {
    ReadingCreatedEvent {
        event_id: Uuid::new_v4(),
        sensor_id: sensor.to_owned(),
        device_type: "THERMOSTAT".to_owned(),
        zone_id: "kitchen".to_owned(),
        values: BTreeMap::from([("temperature".to_owned(), temperature), (MARKER.to_owned(), 1.0)]),
        attributes: Map::new(),
        reading_at: Timestamp::now(),
        received_at: Timestamp::now(),
    }
}

pub(crate) fn alert(record: &Record) -> Alert {
    serde_json::from_str(record.text()).unwrap()
}

//! The rules, as change data capture writes them and as Kafka Streams wants them.

use super::stage::Stage;
use crate::readings::{DEVICE_TYPE, METRIC};
use anyhow::{Context as _, Result, ensure};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schema::{Timestamp, event_id_from_publisher, topics};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// One value in a hundred of the workload lies above: they are spread evenly from 15 over 2^24 millionths.
pub(super) const LIMIT: f64 = 15.0 + 16.777_216 * 0.99;
/// Rules of the fleet. All are evaluated with every reading, and one of them can be violated.
const FLEET: u32 = 10;
/// Timeout after which a broker on this machine counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Names the rules of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// One for each sensor.
    PerSensor,
    /// Some for the type of all.
    Fleet,
}

impl Rules {
    pub(super) const ALL: [Self; 2] = [Self::PerSensor, Self::Fleet];

    pub(super) fn label(self, sensors: u32) -> String {
        match self {
            Self::PerSensor => format!("{sensors} of sensors"),
            Self::Fleet => format!("{FLEET} of the fleet"),
        }
    }

    /// Lists them: the sensor, or none for the fleet, and the limits.
    fn list(self, stage: &Stage) -> Vec<(Option<String>, Limits)> {
        let above = Limits { min: None, max: Some(LIMIT) };
        match self {
            Self::PerSensor => {
                let sensors = stage.workload.sensors().iter();
                sensors.map(|sensor| (Some(sensor.sensor_id.clone()), above)).collect()
            }
            Self::Fleet => {
                let below = |number: u32| Limits { min: Some(-f64::from(number)), max: None };
                let others = (1..FLEET).map(|number| (None, below(number)));
                std::iter::once((None, above)).chain(others).collect()
            }
        }
    }

    /// Writes them to both topics.
    pub(super) fn write(self, stage: &Stage) -> Result<()> {
        let rules = self.list(stage);
        let ours = (0_u32..).zip(&rules).map(|(number, (sensor, limits))| {
            let id = id(&number.to_string());
            change(id, sensor.as_deref(), *limits)
        });
        write(stage, topics::THRESHOLD_UPDATES.name, ours)?;
        let streams = |number: u32, limits: &Limits| {
            json!({
                "thresholdId": id(&number.to_string()), "metric": METRIC, "min": limits.min, "max": limits.max,
                "severity": "critical", "version": 1,
            })
        };
        let numbered = (0_u32..).zip(&rules);
        match self {
            Self::PerSensor => {
                let records = numbered.filter_map(|(number, (sensor, limits))| {
                    Some((sensor.clone()?, json!([streams(number, limits)])))
                });
                write(stage, super::streams::RULES, records)
            }
            Self::Fleet => {
                let all: Vec<Value> = numbered.map(|(number, (_, limits))| streams(number, limits)).collect();
                write(stage, super::streams::RULES, [("*".to_owned(), json!(all))].into_iter())
            }
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

/// Returns the id of a rule.
pub(super) fn id(name: &str) -> Uuid {
    event_id_from_publisher("bench-alerts", name)
}

/// Makes the key and the change of a rule.
pub(super) fn change(id: Uuid, sensor: Option<&str>, limits: Limits) -> (String, Value) {
    // Before every reading: an older one is evaluated by none.
    let at = Timestamp::from_micros(0).expect("the epoch is an instant");
    let device_type = if sensor.is_some() { None } else { Some(DEVICE_TYPE) };
    let row = json!({
        "threshold_id": id, "sensor_id": sensor, "device_type": device_type, "zone_id": null, "metric": METRIC,
        "min_value": limits.min, "max_value": limits.max, "no_data_seconds": null, "severity": "critical",
        "mode": "live", "hysteresis": 0.0, "for_seconds": 0, "keep_firing_seconds": 0, "repeat": "every",
        "alert_age_seconds_max": null, "description": "", "updated_by": "bench", "version": 1,
        "created_at": at, "updated_at": at,
    });
    let change = json!({ "op": "c", "before": null, "after": row, "source": {}, "ts_ms": 0 });
    (json!({ "threshold_id": id }).to_string(), change)
}

/// Produces these records and waits until the broker has all.
pub(super) fn write(
    stage: &Stage,
    topic: &str,
    records: impl Iterator<Item = (String, Value)>,
) -> Result<()> {
    let producer: BaseProducer = stage.kafka.producer().create().context("create a producer")?;
    let topic = stage.kafka.topic(topic);
    for (key, value) in records {
        let value = value.to_string();
        let mut record = BaseRecord::to(&topic).key(&key).payload(&value);
        while let Err((error, refused)) = producer.send(record) {
            let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(is_full, "write to {topic}: {error}");
            producer.poll(Duration::from_millis(10));
            record = refused;
        }
    }
    producer.flush(ANSWER_MAX).context("wait for the broker to take every record")
}

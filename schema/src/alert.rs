//! `iot-alerts`: a reading met a threshold.

use crate::{Severity, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Says whether a value is outside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The value violates the threshold.
    Firing,
    /// The value is back inside.
    Resolved,
}

/// Names the limit that a value met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// `min`: the value is below it.
    Min,
    /// `max`: the value is above it.
    Max,
}

/// Carries a limit and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Which limit.
    pub limit: Limit,
    /// Its value, in the metric's unit.
    pub value: f64,
}

/// Tells notification consumers that one value of one reading met one threshold.
///
/// Shape: at most one per (`threshold_id`, `threshold_version`, `event_id`).
/// Guarantee: exactly once for `read_committed` consumers; `alert_id` is the same when the reading is delivered again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Deterministic: see [`Alert::id`].
    pub alert_id: Uuid,
    /// Firing or resolved.
    pub status: Status,
    /// The sensor; also the Kafka key.
    pub sensor_id: String,
    /// The metric.
    pub metric: String,
    /// The value that met the limit.
    pub value: f64,
    /// The limit that it met.
    pub bound: Bound,
    /// As the threshold says.
    pub severity: Severity,
    /// Which threshold.
    pub threshold_id: Uuid,
    /// Which version of it.
    pub threshold_version: i64,
    /// The device's clock.
    pub reading_at: Timestamp,
    /// The alerting service's clock.
    pub detected_at: Timestamp,
    /// As registered when the reading arrived.
    pub zone_id: String,
    /// As registered when the reading arrived.
    pub device_type: String,
    /// The reading that caused it.
    pub event_id: Uuid,
}

/// Namespace of alert ids; fixed for ever.
const ALERT_NAMESPACE: Uuid = Uuid::from_u128(0x2f6c_0c7e_93d1_5b8a_a41e_6d0b_98c3_17f4);

impl Alert {
    /// Value of the Kafka header `schema`.
    pub const SCHEMA: &'static str = "alert/1";

    /// Derives the alert id from what caused it.
    ///
    /// Guarantee: equal for equal inputs, in every instance and release, so a consumer may drop by it.
    pub fn id(threshold_id: Uuid, threshold_version: i64, event_id: Uuid) -> Uuid {
        let mut name = [0; 40];
        name[..16].copy_from_slice(threshold_id.as_bytes());
        name[16..24].copy_from_slice(&threshold_version.to_be_bytes());
        name[24..].copy_from_slice(event_id.as_bytes());
        Uuid::new_v5(&ALERT_NAMESPACE, &name)
    }
}

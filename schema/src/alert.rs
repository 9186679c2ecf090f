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

/// Says what an alert does to its episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EpisodeStep {
    /// It opens it.
    Opened,
    /// It was open and stays so.
    Continuing,
    /// It closes it.
    Closed,
}

/// Says why there is an alert: what the violation is, or why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The value is above `max`.
    Above,
    /// The value is below `min`.
    Below,
    /// The sensor is silent.
    NoData,
    /// Closed: the value is inside again, or the sensor speaks again.
    Recovered,
    /// Closed: the threshold says something else now.
    RuleChanged,
    /// Closed: the threshold is off.
    RuleOff,
    /// Closed: the threshold is gone.
    RuleDeleted,
    /// Closed: the device is suspended, retired or gone.
    DeviceGone,
}

/// Names the limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Limit {
    /// `min`: the value is below it.
    Min,
    /// `max`: the value is above it.
    Max,
    /// `noDataSeconds`: the silence is longer.
    NoData,
}

/// Carries a limit and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Which limit.
    pub limit: Limit,
    /// Its value, in the metric's unit; for no data in seconds.
    pub value: f64,
}

/// Tells notification consumers that one value of one reading met one threshold.
///
/// Shape: at most one per (`threshold_id`, `threshold_version`, `event_id`). Optional parts that say nothing
/// of this alert are left out.
/// Guarantee: exactly once for `read_committed` consumers; `alert_id` is the same when the reading is
/// delivered again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Deterministic: see [`Alert::id`].
    pub alert_id: Uuid,
    /// Firing or resolved.
    pub status: Status,
    /// The episode that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode_id: Option<Uuid>,
    /// What it does to the episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<EpisodeStep>,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The sensor; also the Kafka key.
    pub sensor_id: String,
    /// The device's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The metric.
    pub metric: String,
    /// The metric's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The value that met the limit, or is inside again; none when no reading caused the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The limit that was met.
    pub bound: Bound,
    /// As the threshold says.
    pub severity: Severity,
    /// Which threshold.
    pub threshold_id: Uuid,
    /// Which version of it.
    pub threshold_version: i64,
    /// The threshold's words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// One line for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The device's clock; of the last reading, when no reading caused the alert.
    pub reading_at: Timestamp,
    /// The alerting service's clock.
    pub detected_at: Timestamp,
    /// Event time at which the episode was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Timestamp>,
    /// Readings of the episode that violated, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurrences: Option<u64>,
    /// The silence that covers it: marked, never dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced_by: Option<Uuid>,
    /// As registered when the reading arrived.
    pub zone_id: String,
    /// As registered when the reading arrived.
    pub device_type: String,
    /// The reading that caused it; none when no reading did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Uuid>,
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

//! `iot-alert-state`: what is known of an episode, from its first violation until it is forgotten.

use crate::{Bound, Mode, Reason, Severity, Timestamp, check_sensor_id};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Names the place of an episode: one sensor under one threshold, which have one episode at a time.
///
/// Shape: `<threshold id>/<sensor id>` as a Kafka key. One spelling, because compaction compares bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EpisodeKey {
    /// Which threshold.
    pub threshold_id: Uuid,
    /// Which sensor.
    pub sensor_id: String,
}

/// Says that a text is not the key of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an episode's key is a threshold id, a slash and a sensor id")]
pub struct NoEpisodeKey;

impl fmt::Display for EpisodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.threshold_id.hyphenated(), self.sensor_id)
    }
}

impl FromStr for EpisodeKey {
    type Err = NoEpisodeKey;

    fn from_str(text: &str) -> Result<Self, NoEpisodeKey> {
        let (threshold_id, sensor_id) = text.split_once('/').ok_or(NoEpisodeKey)?;
        check_sensor_id(sensor_id).map_err(|_| NoEpisodeKey)?;
        let threshold_id = threshold_id.parse().map_err(|_| NoEpisodeKey)?;
        let key = Self { threshold_id, sensor_id: sensor_id.to_owned() };
        // A UUID has several spellings, a key has one.
        if key.to_string() == text { Ok(key) } else { Err(NoEpisodeKey) }
    }
}

/// Says how far an episode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EpisodeState {
    /// Violated or silent, but not for as long as the threshold asks: nobody was told.
    Pending,
    /// An alert has opened it.
    Open,
    /// Inside the limits again, but not for as long as the threshold asks.
    Closing,
    /// Over: kept for a while, so that a reading that comes late or again does not open it anew.
    Closed,
}

/// Holds the smallest and the largest value of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extremes {
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The value of a record of `iot-alert-state`: an episode, from its first violation until it is forgotten,
/// which a tombstone says.
///
/// It carries what its closing alert needs, because the threshold may be gone by then. A threshold that waits
/// for silence has a pending one for each sensor that speaks: its `last_reading_at` is then up to 50,000
/// readings of its partition old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Episode {
    /// Deterministic: see [`Episode::id`].
    pub episode_id: Uuid,
    /// Which threshold; with the sensor the key.
    pub threshold_id: Uuid,
    /// The version of it that is in force for the episode.
    pub threshold_version: i64,
    /// Which sensor.
    pub sensor_id: String,
    /// Which metric.
    pub metric: String,
    /// As the threshold says.
    pub severity: Severity,
    /// As the threshold says: an episode in shadow alerts nobody.
    pub mode: Mode,
    /// How far it is.
    pub state: EpisodeState,
    /// What the violation is: above, below or no data.
    pub reason: Reason,
    /// The limit that was met last.
    pub bound: Bound,
    /// Event time at which it entered its state.
    pub since: Timestamp,
    /// Event time at which it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Timestamp>,
    /// Event time of the newest reading; an older one changes nothing.
    pub last_reading_at: Timestamp,
    /// When the gateway received the newest reading: what its device's clock differs by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received_at: Option<Timestamp>,
    /// Value of the newest reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_value: Option<f64>,
    /// The metric's unit, as a reading said it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The last events at the instant of the newest reading, up to 8, the newest last: one of them that comes
    /// again changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_event_ids: Vec<Uuid>,
    /// Event time of the newest violation; none while silence has not lasted long enough to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_violation_at: Option<Timestamp>,
    /// Readings that violated.
    pub occurrences: u64,
    /// Event time of its last alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_alert_at: Option<Timestamp>,
    /// Values from its first violation on; none for silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extremes: Option<Extremes>,
    /// The device's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The threshold's words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// As the newest reading says.
    pub zone_id: String,
    /// As the newest reading says.
    pub device_type: String,
}

/// Namespace of episode ids; fixed for ever.
const EPISODE_NAMESPACE: Uuid = Uuid::from_u128(0x5b0e_94d1_7c36_5f02_8e4b_a91d_60f7_2c83);

impl Episode {
    /// Value of the Kafka header `schema`.
    pub const SCHEMA: &'static str = "episode/1";

    /// Derives the id of an episode from its place and the event time of its first violation.
    ///
    /// Guarantee: equal for equal inputs, in every instance and release, so that a restart goes on with the
    /// same episode.
    pub fn id(key: &EpisodeKey, first_violation_at: Timestamp) -> Uuid {
        let name = [
            &key.threshold_id.as_bytes()[..],
            &first_violation_at.as_micros().to_be_bytes(),
            key.sensor_id.as_bytes(),
        ];
        Uuid::new_v5(&EPISODE_NAMESPACE, &name.concat())
    }

    /// Returns the key of its record.
    pub fn key(&self) -> EpisodeKey {
        EpisodeKey { threshold_id: self.threshold_id, sensor_id: self.sensor_id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_one_spelling() {
        let text = "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b/thermostat-1";
        let key: EpisodeKey = text.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.sensor_id.as_str()), (text, "thermostat-1"));
        for bad in [
            "",
            "/",
            "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b",
            "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b/",
            "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b/a/b",
            "4A1F0B57-2E7A-4E0F-8F58-1C2D3E4F5A6B/thermostat-1",
            "4a1f0b572e7a4e0f8f581c2d3e4f5a6b/thermostat-1",
        ] {
            assert_eq!(bad.parse::<EpisodeKey>(), Err(NoEpisodeKey), "{bad}");
        }
    }

    #[test]
    fn episode_ids_are_fixed_for_ever() {
        let key: EpisodeKey = "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b/thermostat-1".parse().unwrap();
        let at = Timestamp::parse("2026-01-02T03:04:05.000006Z").unwrap();
        // Expected value computed independently with Python's uuid.
        assert_eq!(Episode::id(&key, at).to_string(), "e822263f-9bd0-500e-afba-f3e76eafaee4");
        let later = Timestamp::parse("2026-01-02T03:04:05.000007Z").unwrap();
        assert_ne!(Episode::id(&key, at), Episode::id(&key, later));
    }
}

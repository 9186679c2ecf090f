//! Table `silences` as it travels on `iot-silence-updates`.

use crate::{Alert, Severity, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Mirrors a row of `silences`: alerts that match it are marked with its id and told to nobody.
///
/// Each matcher that is set must match; at least one is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SilenceRow {
    /// Primary key.
    pub silence_id: Uuid,
    /// One sensor.
    pub sensor_id: Option<String>,
    /// The sensors of a type.
    pub device_type: Option<String>,
    /// The sensors of a zone.
    pub zone_id: Option<String>,
    /// One metric.
    pub metric: Option<String>,
    /// One severity.
    pub severity: Option<Severity>,
    /// When it begins, by the alerting service's clock.
    pub starts_at: Timestamp,
    /// When it is over.
    pub ends_at: Timestamp,
    /// Why there is one, for people.
    pub comment: String,
    /// Subject of the token that created it.
    pub created_by: String,
    /// Grows with every change of the row.
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}

/// Key of a record on `iot-silence-updates`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SilenceKey {
    /// Primary key of `silences`.
    pub silence_id: Uuid,
}

impl SilenceRow {
    /// Says whether it covers an alert: by what the alert is about, and by when it is detected.
    pub fn covers(&self, alert: &Alert) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        (self.starts_at..self.ends_at).contains(&alert.detected_at)
            && is(&self.sensor_id, &alert.sensor_id)
            && is(&self.device_type, &alert.device_type)
            && is(&self.zone_id, &alert.zone_id)
            && is(&self.metric, &alert.metric)
            && self.severity.is_none_or(|severity| severity == alert.severity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_covers_what_every_matcher_matches_from_its_start_until_its_end() {
        let alert: Alert = serde_json::from_str(include_str!("../tests/golden/alert.1.json")).unwrap();
        let golden = include_str!("../tests/golden/silence-change.1.json");
        let change: crate::Change<SilenceRow> = crate::Change::decode(golden.as_bytes()).unwrap();
        let later = Timestamp::from_micros(alert.detected_at.as_micros() + 1).unwrap();
        let none = SilenceRow {
            sensor_id: None,
            device_type: None,
            zone_id: None,
            metric: None,
            severity: None,
            starts_at: alert.detected_at,
            ends_at: later,
            ..change.after.unwrap()
        };
        let other = || Some("other".to_owned());
        let matching = SilenceRow {
            sensor_id: Some(alert.sensor_id.clone()),
            device_type: Some(alert.device_type.clone()),
            zone_id: Some(alert.zone_id.clone()),
            metric: Some(alert.metric.clone()),
            severity: Some(alert.severity),
            ..none.clone()
        };
        for covering in [&none, &matching] {
            assert!(covering.covers(&alert));
        }
        for apart in [
            SilenceRow { sensor_id: other(), ..matching.clone() },
            SilenceRow { device_type: other(), ..matching.clone() },
            SilenceRow { zone_id: other(), ..matching.clone() },
            SilenceRow { metric: other(), ..matching.clone() },
            SilenceRow { severity: Some(Severity::Info), ..matching.clone() },
            SilenceRow { starts_at: none.ends_at, ..matching.clone() },
            SilenceRow { ends_at: none.starts_at, ..matching },
        ] {
            assert!(!apart.covers(&alert), "{apart:?}");
        }
    }
}

//! Table `sensor_thresholds` as it travels on `iot-threshold-updates`.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Ranks an alert for the people who receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth looking at soon.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl Severity {
    /// Every severity.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Returns the name used in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads a name as [`Severity::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == name)
    }
}

/// Says what becomes of a threshold's violations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: it is not evaluated.
    Off,
    /// They are counted and alert nobody: a threshold on trial.
    Shadow,
    /// They are alerts.
    Live,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Shadow, Self::Live];

    /// Returns the name used in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Live => "live",
        }
    }

    /// Reads a name as [`Mode::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// Says how often an open episode speaks again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Repeat {
    /// With each reading that violates.
    #[default]
    Every,
    /// Not until it closes.
    Never,
    /// With the first violating reading after this many seconds of event time, 1 to [`Repeat::SECONDS_MAX`].
    Seconds(u32),
}

/// Says that a text is no [`Repeat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("repeat is every, never or a number of seconds")]
pub struct NoRepeat;

impl Repeat {
    /// Most seconds: a year.
    pub const SECONDS_MAX: u32 = 31_536_000;
}

impl fmt::Display for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("every"),
            Self::Never => f.write_str("never"),
            Self::Seconds(seconds) => write!(f, "{seconds}"),
        }
    }
}

impl FromStr for Repeat {
    type Err = NoRepeat;

    fn from_str(text: &str) -> Result<Self, NoRepeat> {
        match text {
            "every" => Ok(Self::Every),
            "never" => Ok(Self::Never),
            // A sign or a leading zero is another spelling of a number that has one.
            _ if !text.starts_with(|first: char| matches!(first, '1'..='9')) => Err(NoRepeat),
            _ => {
                let seconds = text.parse().map_err(|_| NoRepeat)?;
                if seconds <= Self::SECONDS_MAX { Ok(Self::Seconds(seconds)) } else { Err(NoRepeat) }
            }
        }
    }
}

impl TryFrom<String> for Repeat {
    type Error = NoRepeat;

    fn try_from(text: String) -> Result<Self, NoRepeat> {
        text.parse()
    }
}

impl From<Repeat> for String {
    fn from(repeat: Repeat) -> Self {
        repeat.to_string()
    }
}

/// Says which sensors a threshold watches: one, or all of a zone, a device type, or both.
///
/// Zone and type are those that a reading carries: as registered when it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "ScopeColumns", into = "ScopeColumns")]
pub enum Scope {
    /// One sensor.
    Sensor(String),
    /// The sensors of a type in a zone.
    ZoneAndType {
        /// The zone.
        zone_id: String,
        /// The type.
        device_type: String,
    },
    /// The sensors of a zone.
    Zone(String),
    /// The sensors of a type.
    DeviceType(String),
}

/// Says that columns are no scope: a sensor beside a zone or a type, or nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is a sensor, or a zone, a device type or both")]
pub struct NoScope;

/// The columns of a scope, null where it says nothing.
#[derive(Serialize, Deserialize)]
struct ScopeColumns {
    sensor_id: Option<String>,
    device_type: Option<String>,
    zone_id: Option<String>,
}

impl Scope {
    /// Makes a scope of its columns.
    ///
    /// # Errors
    /// [`NoScope`].
    pub fn of_columns(
        sensor_id: Option<String>,
        device_type: Option<String>,
        zone_id: Option<String>,
    ) -> Result<Self, NoScope> {
        match (sensor_id, device_type, zone_id) {
            (Some(sensor_id), None, None) => Ok(Self::Sensor(sensor_id)),
            (None, Some(device_type), Some(zone_id)) => Ok(Self::ZoneAndType { zone_id, device_type }),
            (None, None, Some(zone_id)) => Ok(Self::Zone(zone_id)),
            (None, Some(device_type), None) => Ok(Self::DeviceType(device_type)),
            _ => Err(NoScope),
        }
    }

    /// Returns the sensor, if it is one.
    pub fn sensor_id(&self) -> Option<&str> {
        match self {
            Self::Sensor(sensor_id) => Some(sensor_id),
            Self::ZoneAndType { .. } | Self::Zone(_) | Self::DeviceType(_) => None,
        }
    }

    /// Returns the zone, if it names one.
    pub fn zone_id(&self) -> Option<&str> {
        match self {
            Self::ZoneAndType { zone_id, .. } | Self::Zone(zone_id) => Some(zone_id),
            Self::Sensor(_) | Self::DeviceType(_) => None,
        }
    }

    /// Returns the device type, if it names one.
    pub fn device_type(&self) -> Option<&str> {
        match self {
            Self::ZoneAndType { device_type, .. } | Self::DeviceType(device_type) => Some(device_type),
            Self::Sensor(_) | Self::Zone(_) => None,
        }
    }

    /// Says whether it watches a sensor, given where the sensor is and what it is.
    pub fn covers(&self, sensor_id: &str, zone_id: &str, device_type: &str) -> bool {
        let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        is(self.sensor_id(), sensor_id) && is(self.zone_id(), zone_id) && is(self.device_type(), device_type)
    }
}

impl TryFrom<ScopeColumns> for Scope {
    type Error = NoScope;

    fn try_from(columns: ScopeColumns) -> Result<Self, NoScope> {
        Self::of_columns(columns.sensor_id, columns.device_type, columns.zone_id)
    }
}

impl From<Scope> for ScopeColumns {
    fn from(scope: Scope) -> Self {
        let column = |text: Option<&str>| text.map(str::to_owned);
        Self {
            sensor_id: column(scope.sensor_id()),
            device_type: column(scope.device_type()),
            zone_id: column(scope.zone_id()),
        }
    }
}

/// Mirrors a row of `sensor_thresholds`, column names and all, because change data capture writes columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdRow {
    /// Primary key.
    pub threshold_id: Uuid,
    /// The sensors it watches: columns `sensor_id`, `device_type` and `zone_id`.
    #[serde(flatten)]
    pub scope: Scope,
    /// The metric it watches.
    pub metric: String,
    /// A value below it violates. A threshold has one or both limits, or `no_data_seconds`.
    pub min_value: Option<f64>,
    /// A value above it violates.
    pub max_value: Option<f64>,
    /// Silence of the metric for longer violates, in seconds.
    #[serde(default)]
    pub no_data_seconds: Option<u32>,
    /// How far inside its limits a value must be to count as inside again, in the metric's unit.
    #[serde(default)]
    pub hysteresis: f64,
    /// How long a violation must last before it opens an episode, in seconds of event time.
    #[serde(default)]
    pub for_seconds: u32,
    /// How long a value must be inside again before the episode closes, in seconds of event time.
    #[serde(default)]
    pub keep_firing_seconds: u32,
    /// How often an open episode speaks again.
    #[serde(default)]
    pub repeat: Repeat,
    /// Age beyond which a reading moves no episode, in seconds between its event time and its arrival.
    #[serde(default)]
    pub alert_age_seconds_max: Option<u32>,
    /// How loud its alerts are.
    pub severity: Severity,
    /// What becomes of its violations.
    pub mode: Mode,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Grows with every change of the row, also over its deletion; part of an alert's identity.
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
    /// Subject of the token that made the last change.
    #[serde(default)]
    pub updated_by: String,
}

/// Key of a record on `iot-threshold-updates`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThresholdKey {
    /// Primary key of `sensor_thresholds`.
    pub threshold_id: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_found_by_its_own_name_alone() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_name(mode.as_str()), Some(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
        assert_eq!(Mode::from_name("Live"), None);
    }

    #[test]
    fn every_severity_is_found_by_its_own_name_alone() {
        for severity in Severity::ALL {
            assert_eq!(Severity::from_name(severity.as_str()), Some(severity));
            assert_eq!(serde_json::to_value(severity).unwrap(), severity.as_str());
        }
        assert_eq!(Severity::from_name("Critical"), None);
    }

    #[test]
    fn repeat_has_one_spelling() {
        for (text, repeat) in [
            ("every", Repeat::Every),
            ("never", Repeat::Never),
            ("1", Repeat::Seconds(1)),
            ("31536000", Repeat::Seconds(Repeat::SECONDS_MAX)),
        ] {
            assert_eq!(text.parse(), Ok(repeat));
            assert_eq!(serde_json::to_value(repeat).unwrap(), text);
        }
        for bad in ["", "0", "+1", "01", "-1", "1.5", "31536001", "99999999999", "Every"] {
            assert_eq!(bad.parse::<Repeat>(), Err(NoRepeat), "{bad}");
        }
    }

    #[test]
    fn scope_is_a_sensor_or_a_zone_a_type_or_both() {
        let column = |is_set: bool, text: &str| is_set.then(|| text.to_owned());
        for bits in 0..8 {
            let (sensor, device_type, zone) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let (s, t, z) = (column(sensor, "s"), column(device_type, "t"), column(zone, "z"));
            let columns = serde_json::json!({"sensor_id": s, "device_type": t, "zone_id": z});
            let scope = Scope::of_columns(s, t, z);
            assert_eq!(scope.is_ok(), sensor != (device_type || zone), "{columns}");
            assert_eq!(serde_json::from_value::<Scope>(columns.clone()).ok(), scope.clone().ok());
            let Ok(scope) = scope else { continue };
            assert_eq!(serde_json::to_value(&scope).unwrap(), columns);
            // Parts that it does not name may be anything.
            for (found, covered) in [
                (("s", "z", "t"), true),
                (("other", "z", "t"), !sensor),
                (("s", "other", "t"), !zone),
                (("s", "z", "other"), !device_type),
            ] {
                assert_eq!(scope.covers(found.0, found.1, found.2), covered, "{scope:?} {found:?}");
            }
        }
    }
}

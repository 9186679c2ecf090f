//! Table `sensor_thresholds` as it travels on `iot-threshold-updates`.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
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
    /// Returns the name used in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Mirrors a row of `sensor_thresholds`, column names and all, because change data capture writes columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdRow {
    /// Primary key.
    pub threshold_id: Uuid,
    /// The sensor it watches.
    pub sensor_id: String,
    /// The metric it watches.
    pub metric: String,
    /// A value below it violates; at least one of the two limits is set.
    pub min_value: Option<f64>,
    /// A value above it violates.
    pub max_value: Option<f64>,
    /// How loud its alerts are.
    pub severity: Severity,
    /// Whether it is evaluated.
    pub enabled: bool,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Grows with every change of the row, also over its deletion; part of an alert's identity.
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}

/// Key of a record on `iot-threshold-updates`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThresholdKey {
    /// Primary key of `sensor_thresholds`.
    pub threshold_id: Uuid,
}

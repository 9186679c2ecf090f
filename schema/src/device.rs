//! Table `devices` as it travels on `iot-device-updates`.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Says whether a device may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceStatus {
    /// May connect and publish.
    Active,
    /// Refused until made active again.
    Suspended,
    /// Refused for good; its readings stay.
    Retired,
}

impl DeviceStatus {
    /// Returns the name used in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }
}

/// Mirrors a row of `devices`, column names and all, because change data capture writes columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Primary key; the certificate's subject CN.
    pub sensor_id: String,
    /// For people.
    #[serde(default)]
    pub display_name: String,
    /// For example `THERMOSTAT`.
    pub device_type: String,
    /// Where it stands; the unit of zone queries.
    pub zone_id: String,
    /// Payload format, by the name of a [`Codec`](crate::Codec).
    pub codec: String,
    /// For the codec `binary`: a [`Layout`](crate::Layout) as JSON text, which is how jsonb is captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec_layout: Option<String>,
    /// Whether it may publish.
    pub status: DeviceStatus,
    /// Lower-case hex SHA-256 of each accepted certificate's DER; several while one is being rotated.
    pub fingerprints: Vec<String>,
    /// Grows with every change of the row, also over its deletion.
    pub version: i64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}

/// Key of a record on `iot-device-updates`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceKey {
    /// Primary key of `devices`.
    pub sensor_id: String,
}

//! Topic `iot-device-updates` → the registry, and from there to live connections.

use crate::device::connections::Connections;
use crate::device::registry::{Applied, Registry};
use crate::metrics::Metrics;
use schema::{Change, DeviceRow};

/// Applies one record and closes the connections of a device that may not publish any more.
pub(crate) fn apply(
    registry: &Registry,
    connections: &Connections,
    metrics: &Metrics,
    key: &[u8],
    value: Option<&[u8]>,
) {
    let sensor_id = match Change::<DeviceRow>::decode_key(key) {
        Ok(key) => key.sensor_id,
        Err(error) => {
            metrics.device_changes_unreadable.inc();
            tracing::error!(%error, "change of a device has an unreadable key");
            return;
        }
    };
    match registry.record(&sensor_id, value) {
        Applied::Changed => {}
        Applied::Stale => {
            // Each tombstone behind its delete is one, too: only a value is worth counting.
            if value.is_some() {
                metrics.device_changes_stale.inc();
                tracing::debug!(sensor_id, "change of a device came again or late");
            }
            return;
        }
        Applied::Unreadable(error) => {
            metrics.device_changes_unreadable.inc();
            tracing::error!(sensor_id, %error, "change of a device is unreadable; the device is refused");
        }
    }
    connections.recheck(&sensor_id, |identity| registry.lookup(identity).err());
    metrics.devices.set(i64::try_from(registry.len()).unwrap_or(i64::MAX));
}

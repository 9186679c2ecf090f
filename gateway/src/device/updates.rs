//! Topic `iot-device-updates` → the registry, and from there to live connections.

use schema::{Change, DeviceRow};

use crate::device::registry::Applied;
use crate::gateway::Gateway;

/// Applies one record and closes the connections of a device that may not publish any more.
pub(crate) fn apply(gateway: &Gateway, key: &[u8], value: Option<&[u8]>) {
    let sensor_id = match Change::<DeviceRow>::decode_key(key) {
        Ok(key) => key.sensor_id,
        Err(error) => {
            gateway.metrics.device_changes_unreadable.inc();
            tracing::error!(%error, "change of a device has an unreadable key");
            return;
        }
    };
    match gateway.registry.record(&sensor_id, value) {
        Applied::Changed => {}
        Applied::Stale => {
            // Each tombstone behind its delete is one, too: only a value is worth counting.
            if value.is_some() {
                gateway.metrics.device_changes_stale.inc();
                tracing::debug!(sensor_id, "change of a device came again or late");
            }
            return;
        }
        Applied::Unreadable(error) => {
            gateway.metrics.device_changes_unreadable.inc();
            tracing::error!(sensor_id, %error, "change of a device is unreadable; the device is refused");
        }
    }
    gateway.connections.recheck(&sensor_id, |identity| gateway.registry.lookup(identity).err());
    gateway.metrics.devices.set(i64::try_from(gateway.registry.len()).unwrap_or(i64::MAX));
}

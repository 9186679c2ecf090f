//! Topic `iot-device-updates` → the registry, and from there to live connections.

use schema::{Change, DeviceRow, Op};

use crate::Gateway;

/// Applies one record and closes the connections of a device that may not publish any more.
///
/// A change that cannot be read removes its device: to keep an older row could keep a suspended device alive.
pub(crate) fn apply(gateway: &Gateway, key: &[u8], value: Option<&[u8]>) {
    let sensor_id = match Change::<DeviceRow>::decode_key(key) {
        Ok(key) => key.sensor_id,
        Err(error) => {
            gateway.metrics.device_changes_unreadable.inc();
            tracing::error!(%error, "change of a device has an unreadable key");
            return;
        }
    };
    let row = match value.map(Change::<DeviceRow>::decode) {
        None => None,
        Some(Ok(change)) if change.op == Op::Delete => None,
        Some(Ok(change)) => change.after,
        Some(Err(error)) => {
            gateway.metrics.device_changes_unreadable.inc();
            tracing::error!(sensor_id, %error, "change of a device is unreadable; the device is refused");
            None
        }
    };
    gateway.registry.apply(&sensor_id, row);
    gateway.sessions.recheck(&sensor_id, |identity| gateway.registry.lookup(identity).err());
    gateway.metrics.devices.set(i64::try_from(gateway.registry.len()).unwrap_or(i64::MAX));
}

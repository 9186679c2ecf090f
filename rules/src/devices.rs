//! What is known of devices, kept by the records of `iot-device-updates`. Pure.

use schema::{Change, ChangeError, DELETED_KEYS_MAX, DeviceRow, DeviceStatus, Order, Verdict};
use std::collections::{HashMap, VecDeque};

/// Holds for each device its name for people and whether it is active. A sensor that nobody has registered
/// counts as active and has no name.
#[derive(Debug, Default)]
pub struct Devices {
    by_sensor: HashMap<Box<str>, Device>,
    /// Those that were deleted, in that order; some may be registered again.
    deleted: VecDeque<Box<str>>,
    order: Order<Box<str>>,
}

#[derive(Debug)]
struct Device {
    display_name: Box<str>,
    status: Option<DeviceStatus>,
}

impl Devices {
    /// Applies one record; no value is a tombstone. Returns the sensor whose device has changed. A change
    /// that is older than the one in force changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`] when the record cannot be read; the device stays as it was, because an alert too many
    /// is better than none (ADR 0014).
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Option<String>, ChangeError> {
        let sensor_id = Change::<DeviceRow>::decode_key(key)?.sensor_id;
        let key: Box<str> = sensor_id.as_str().into();
        match (self.order.check(&key, value)?, value) {
            (Verdict::Stale, _) => return Ok(None),
            (Verdict::Row, Some(value)) => match Change::<DeviceRow>::decode(value)?.after {
                Some(row) => self.put(key, &row.display_name, Some(row.status)),
                None => self.delete(key),
            },
            (Verdict::Row | Verdict::Deleted, _) => self.delete(key),
        }
        Ok(Some(sensor_id))
    }

    fn put(&mut self, sensor_id: Box<str>, display_name: &str, status: Option<DeviceStatus>) {
        self.by_sensor.insert(sensor_id, Device { display_name: display_name.into(), status });
    }

    /// Remembers a deleted device as gone, up to the number that [`Order`] remembers as well.
    fn delete(&mut self, sensor_id: Box<str>) {
        if self.by_sensor.get(&sensor_id).is_some_and(|device| device.status.is_none()) {
            return;
        }
        self.put(sensor_id.clone(), "", None);
        self.deleted.push_back(sensor_id);
        if self.deleted.len() > DELETED_KEYS_MAX
            && let Some(oldest) = self.deleted.pop_front()
            && self.by_sensor.get(&oldest).is_some_and(|device| device.status.is_none())
        {
            self.by_sensor.remove(&oldest);
        }
    }

    /// Returns the device's name for people, if it has one.
    pub fn display_name(&self, sensor_id: &str) -> Option<&str> {
        let device = self.by_sensor.get(sensor_id)?;
        Some(&*device.display_name).filter(|name| !name.is_empty())
    }

    /// Says whether the device is suspended, retired or deleted.
    pub fn is_gone(&self, sensor_id: &str) -> bool {
        self.by_sensor.get(sensor_id).is_some_and(|device| device.status != Some(DeviceStatus::Active))
    }

    /// Counts the devices that are known, deleted ones included.
    pub fn count(&self) -> usize {
        self.by_sensor.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn key(sensor: &str) -> Vec<u8> {
        json!({"sensor_id": sensor}).to_string().into_bytes()
    }

    fn value(op: &str, sensor: &str, name: &str, status: &str, version: i64) -> Vec<u8> {
        let row = json!({
            "sensor_id": sensor, "display_name": name, "device_type": "T", "zone_id": "z", "codec": "json",
            "status": status, "fingerprints": [], "version": version,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
        });
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        json!({"op": op, "before": before, "after": after, "ts_ms": 0}).to_string().into_bytes()
    }

    #[test]
    fn device_is_gone_while_it_is_not_active_and_unknown_ones_never_are() {
        let mut devices = Devices::default();
        assert!(!devices.is_gone("a"));
        for (version, status, is_gone) in
            [(1, "active", false), (2, "suspended", true), (3, "active", false), (4, "retired", true)]
        {
            let touched = devices.apply(&key("a"), Some(&value("u", "a", "Hall", status, version))).unwrap();
            assert_eq!((touched.as_deref(), devices.is_gone("a")), (Some("a"), is_gone));
            assert_eq!(devices.display_name("a"), Some("Hall"));
        }
        let stale = devices.apply(&key("a"), Some(&value("u", "a", "Old", "active", 3))).unwrap();
        assert_eq!((stale, devices.is_gone("a")), (None, true));
    }

    #[test]
    fn deleted_device_is_gone_until_it_is_registered_again() {
        let mut devices = Devices::default();
        devices.apply(&key("a"), Some(&value("c", "a", "", "active", 1))).unwrap();
        assert_eq!(devices.display_name("a"), None);
        devices.apply(&key("a"), Some(&value("d", "a", "", "active", 1))).unwrap();
        devices.apply(&key("a"), None).unwrap();
        devices.apply(&key("b"), None).unwrap();
        assert!(devices.is_gone("a") && devices.is_gone("b"));
        devices.apply(&key("a"), Some(&value("c", "a", "", "active", 2))).unwrap();
        assert!(!devices.is_gone("a"));
        assert_eq!(devices.count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_applied_or_refused_without_a_panic(key: Vec<u8>, value: Option<Vec<u8>>) {
            let _ = Devices::default().apply(&key, value.as_deref());
        }
    }
}

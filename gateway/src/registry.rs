//! The table of devices, in memory: who may publish, and as what. The revocation lists stand beside it.
//!
//! [`Table`] is pure: changes in, devices out. [`Registry`] shares it between all connections. A connection asks again
//! whenever the generation has moved, so that not one more message of a suspended device passes; idle connections are told
//! by `sessions`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use schema::{DeviceRow, DeviceStatus};

use crate::decode::Format;
use crate::identity::{Fingerprint, Identity, Issue};

/// What the gateway needs to know of a registered device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// For example `THERMOSTAT`.
    pub device_type: String,
    /// Where it stands.
    pub zone_id: String,
    /// The codec that it is registered with, by name.
    pub codec: String,
    /// How its payloads are to be decoded: the codec, with the layout when it needs one.
    pub format: Format,
    status: DeviceStatus,
    fingerprints: Vec<Fingerprint>,
}

/// Says why the holder of a valid certificate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No device has this sensor id.
    #[error("the device is not registered: its sensor id is the certificate's CN")]
    Unregistered,
    /// The device must not publish for now.
    #[error("the device is suspended: an operator can make it active again")]
    Suspended,
    /// The device is out of use.
    #[error("the device is retired, for good")]
    Retired,
    /// The device is active, but with other certificates.
    #[error("the certificate is not registered for this device: register its SHA-256 fingerprint")]
    Certificate,
    /// The certificate is on a revocation list.
    #[error("the certificate is revoked: the device needs a new one")]
    Revoked,
}

/// Devices by sensor id, as the last change of each left them.
#[derive(Debug, Default)]
pub struct Table {
    devices: HashMap<String, Arc<Device>>,
}

impl Table {
    /// Puts a row in the place of what was known under `sensor_id`; no row removes it.
    pub fn apply(&mut self, sensor_id: &str, row: Option<DeviceRow>) {
        match row {
            Some(row) => {
                self.devices.insert(sensor_id.to_owned(), Arc::new(Device::from(row)));
            }
            None => {
                self.devices.remove(sensor_id);
            }
        }
    }

    /// Finds the device that `identity` stands for.
    ///
    /// # Errors
    /// [`Denied`] says why it may not publish.
    pub fn lookup(&self, identity: &Identity) -> Result<Arc<Device>, Denied> {
        let device = self.active(&identity.sensor_id)?;
        if device.fingerprints.contains(&identity.fingerprint) {
            Ok(device)
        } else {
            Err(Denied::Certificate)
        }
    }

    /// Finds a device by its name alone: whoever asks has proven it without a certificate.
    ///
    /// # Errors
    /// [`Denied`] says why it may not publish.
    pub fn active(&self, sensor_id: &str) -> Result<Arc<Device>, Denied> {
        let device = self.devices.get(sensor_id).ok_or(Denied::Unregistered)?;
        match device.status {
            DeviceStatus::Active => Ok(device.clone()),
            DeviceStatus::Suspended => Err(Denied::Suspended),
            DeviceStatus::Retired => Err(Denied::Retired),
        }
    }

    /// Counts the devices.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Tells whether there is no device at all.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

impl From<DeviceRow> for Device {
    /// A fingerprint that is not 64 hex digits matches no certificate and is left out.
    fn from(row: DeviceRow) -> Self {
        Self {
            device_type: row.device_type,
            zone_id: row.zone_id,
            format: Format::of(&row.codec, row.codec_layout.as_deref()),
            codec: row.codec,
            status: row.status,
            fingerprints: row.fingerprints.iter().filter_map(|hex| Fingerprint::from_hex(hex)).collect(),
        }
    }
}

/// The table, shared by every connection.
#[derive(Debug, Default)]
pub struct Registry {
    table: RwLock<Table>,
    revoked: RwLock<Arc<HashSet<Issue>>>,
    generation: AtomicU64,
}

impl Registry {
    /// Applies a change, as [`Table::apply`] does.
    pub fn apply(&self, sensor_id: &str, row: Option<DeviceRow>) {
        self.table.write().apply(sensor_id, row);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Puts the certificates of newly loaded revocation lists in the place of those known before.
    pub fn revoke(&self, revoked: Arc<HashSet<Issue>>) {
        *self.revoked.write() = revoked;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Looks up as [`Table::lookup`] does, unless the certificate is revoked.
    ///
    /// # Errors
    /// As there, and [`Denied::Revoked`].
    pub fn lookup(&self, identity: &Identity) -> Result<Arc<Device>, Denied> {
        if self.revoked.read().contains(&identity.issue) {
            return Err(Denied::Revoked);
        }
        self.table.read().lookup(identity)
    }

    /// Looks up as [`Table::active`] does.
    ///
    /// # Errors
    /// As there.
    pub fn active(&self, sensor_id: &str) -> Result<Arc<Device>, Denied> {
        self.table.read().active(sensor_id)
    }

    /// Grows with every change; as long as it stands still, so does the answer of [`Registry::lookup`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Counts the devices.
    pub fn len(&self) -> usize {
        self.table.read().len()
    }

    /// Tells whether there is no device at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schema::Timestamp;

    fn row(sensor_id: &str, status: DeviceStatus, certificates: &[&[u8]]) -> DeviceRow {
        let epoch = Timestamp::from_micros(0).unwrap();
        DeviceRow {
            sensor_id: sensor_id.to_owned(),
            display_name: String::new(),
            device_type: "THERMOSTAT".to_owned(),
            zone_id: "zone-1".to_owned(),
            codec: "json".to_owned(),
            codec_layout: None,
            status,
            fingerprints: certificates.iter().map(|der| format!("{:?}", Fingerprint::of(der))).collect(),
            version: 1,
            created_at: epoch,
            updated_at: epoch,
        }
    }

    #[test]
    fn only_an_active_device_with_a_registered_certificate_is_found() {
        let mut table = Table::default();
        table.apply("a", Some(row("a", DeviceStatus::Active, &[b"old", b"new"])));
        table.apply("s", Some(row("s", DeviceStatus::Suspended, &[b"c"])));
        table.apply("r", Some(row("r", DeviceStatus::Retired, &[b"c"])));
        assert_eq!(table.lookup(&Identity::of("a", b"old")).unwrap().zone_id, "zone-1");
        assert!(table.lookup(&Identity::of("a", b"new")).is_ok());
        assert_eq!(table.lookup(&Identity::of("a", b"other")), Err(Denied::Certificate));
        assert_eq!(table.lookup(&Identity::of("s", b"c")), Err(Denied::Suspended));
        assert_eq!(table.lookup(&Identity::of("r", b"c")), Err(Denied::Retired));
        assert_eq!(table.lookup(&Identity::of("x", b"c")), Err(Denied::Unregistered));
    }

    #[test]
    fn every_change_takes_effect_and_moves_the_generation() {
        let registry = Registry::default();
        let device = Identity::of("a", b"c");
        let steps = [
            (Some(row("a", DeviceStatus::Active, &[b"c"])), None),
            (Some(row("a", DeviceStatus::Active, &[])), Some(Denied::Certificate)),
            (Some(row("a", DeviceStatus::Suspended, &[b"c"])), Some(Denied::Suspended)),
            (Some(row("a", DeviceStatus::Active, &[b"c"])), None),
            (None, Some(Denied::Unregistered)),
        ];
        for (row, denied) in steps {
            let before = registry.generation();
            registry.apply("a", row);
            assert!(registry.generation() > before);
            assert_eq!(registry.lookup(&device).err(), denied);
        }
    }

    #[test]
    fn revoked_certificate_is_denied_until_the_lists_say_otherwise() {
        let registry = Registry::default();
        registry.apply("a", Some(row("a", DeviceStatus::Active, &[b"c"])));
        let device = Identity::of("a", b"c");
        for (revoked, denied) in [(vec![device.issue], Some(Denied::Revoked)), (vec![], None)] {
            let before = registry.generation();
            registry.revoke(Arc::new(revoked.into_iter().collect()));
            assert!(registry.generation() > before);
            assert_eq!(registry.lookup(&device).err(), denied);
        }
    }

    proptest! {
        #[test]
        fn last_change_of_each_sensor_wins(changes in proptest::collection::vec((0..4u8, 0..4u8), 0..40)) {
            let mut table = Table::default();
            let mut last = HashMap::new();
            for (sensor, state) in changes {
                let (sensor, status) = (format!("s{sensor}"), match state {
                    0 => None,
                    1 => Some(DeviceStatus::Active),
                    2 => Some(DeviceStatus::Suspended),
                    _ => Some(DeviceStatus::Retired),
                });
                table.apply(&sensor, status.map(|status| row(&sensor, status, &[b"c"])));
                last.insert(sensor, status);
            }
            for (sensor, status) in &last {
                let is_found = table.lookup(&Identity::of(sensor, b"c")).is_ok();
                prop_assert_eq!(is_found, *status == Some(DeviceStatus::Active));
            }
            prop_assert_eq!(table.len(), last.values().flatten().count());
        }
    }
}

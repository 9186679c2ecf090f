//! The table of devices, in memory: who may publish, and as what. The revocation lists stand beside it.
//!
//! [`Table`] is pure: records in, devices out. A record that comes again or late never puts an older row back
//! ([`schema::Order`]). [`Registry`] shares the table between all connections. A connection asks again
//! whenever the generation has moved, so that not one more message of a suspended device passes; idle
//! connections are told by `sessions`.

use crate::decode::Format;
use crate::device::identity::{Fingerprint, Identity, Issue};
use parking_lot::RwLock;
use schema::{Change, ChangeError, DeviceRow, DeviceStatus, Order, Verdict};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

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
    /// The certificate's time is over, though it was not when the connection began.
    #[error("the certificate has expired: the device needs a new one")]
    Expired,
}

/// What a record of `iot-device-updates` did to the table.
#[derive(Debug)]
pub enum Applied {
    /// The device is as the record says.
    Changed,
    /// A later change is in force already.
    Stale,
    /// The device is refused: to keep an older row could keep a suspended device alive.
    Unreadable(ChangeError),
}

/// Devices by sensor id, as the newest change of each left them.
#[derive(Debug, Default)]
pub struct Table {
    devices: HashMap<Arc<str>, Arc<Device>>,
    order: Order<Arc<str>>,
}

impl Table {
    /// Applies a record unless it is stale; no value is a tombstone.
    pub fn record(&mut self, sensor_id: &str, value: Option<&[u8]>) -> Applied {
        let sensor_id: Arc<str> = sensor_id.into();
        let row = match self.order.check(&sensor_id, value) {
            Ok(Verdict::Stale) => return Applied::Stale,
            Ok(Verdict::Deleted) => Ok(None),
            Ok(Verdict::Row) => {
                value.map_or(Ok(None), |value| Change::<DeviceRow>::decode(value).map(|change| change.after))
            }
            Err(error) => Err(error),
        };
        match row {
            Ok(row) => {
                self.apply(sensor_id, row);
                Applied::Changed
            }
            Err(error) => {
                self.apply(sensor_id, None);
                Applied::Unreadable(error)
            }
        }
    }

    /// Puts a row in the place of what was known under `sensor_id`; no row removes it.
    pub(crate) fn apply(&mut self, sensor_id: impl Into<Arc<str>>, row: Option<DeviceRow>) {
        let sensor_id = sensor_id.into();
        match row {
            Some(row) => drop(self.devices.insert(sensor_id, Arc::new(Device::from(row)))),
            None => drop(self.devices.remove(&sensor_id)),
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
    /// Leaves out a fingerprint that is not 64 hex digits, which matches no certificate.
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
    /// Applies a record, as [`Table::record`] does.
    pub fn record(&self, sensor_id: &str, value: Option<&[u8]>) -> Applied {
        let applied = self.table.write().record(sensor_id, value);
        if !matches!(applied, Applied::Stale) {
            self.generation.fetch_add(1, Ordering::Release);
        }
        applied
    }

    /// Puts the certificates of newly loaded revocation lists in the place of those known before.
    pub fn revoke(&self, revoked: Arc<HashSet<Issue>>) {
        *self.revoked.write() = revoked;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Looks up as [`Table::lookup`] does, unless the certificate is revoked or has expired.
    ///
    /// # Errors
    /// As there, and [`Denied::Revoked`] and [`Denied::Expired`].
    pub fn lookup(&self, identity: &Identity) -> Result<Arc<Device>, Denied> {
        if identity.not_after.is_over(SystemTime::now()) {
            return Err(Denied::Expired);
        }
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
    use crate::device::identity::NotAfter;
    use proptest::prelude::*;
    use schema::{Op, Source, Timestamp};

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

    /// What change data capture writes when nobody says where in the WAL.
    fn value(row: Option<DeviceRow>) -> Option<Vec<u8>> {
        value_at(row, None, 1)
    }

    fn value_at(row: Option<DeviceRow>, lsn: Option<u64>, version: i64) -> Option<Vec<u8>> {
        let row = DeviceRow { version, ..row? };
        let source = Source { lsn, ..Source::default() };
        let change = Change { op: Op::Update, before: None, after: Some(row), source, ts_ms: 0 };
        Some(serde_json::to_vec(&change).unwrap())
    }

    impl Table {
        fn change(&mut self, sensor_id: &str, row: DeviceRow) {
            assert!(matches!(self.record(sensor_id, value(Some(row)).as_deref()), Applied::Changed));
        }
    }

    #[test]
    fn only_an_active_device_with_a_registered_certificate_is_found() {
        let mut table = Table::default();
        table.change("a", row("a", DeviceStatus::Active, &[b"old", b"new"]));
        table.change("s", row("s", DeviceStatus::Suspended, &[b"c"]));
        table.change("r", row("r", DeviceStatus::Retired, &[b"c"]));
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
            registry.record("a", value(row).as_deref());
            assert!(registry.generation() > before);
            assert_eq!(registry.lookup(&device).err(), denied);
        }
    }

    #[test]
    fn revoked_certificate_is_denied_until_the_lists_say_otherwise() {
        let registry = Registry::default();
        registry.record("a", value(Some(row("a", DeviceStatus::Active, &[b"c"]))).as_deref());
        let device = Identity::of("a", b"c");
        for (revoked, denied) in [(vec![device.issue], Some(Denied::Revoked)), (vec![], None)] {
            let before = registry.generation();
            registry.revoke(Arc::new(revoked.into_iter().collect()));
            assert!(registry.generation() > before);
            assert_eq!(registry.lookup(&device).err(), denied);
        }
    }

    #[test]
    fn suspension_outlives_a_replay_that_ends_before_it() {
        let registry = Registry::default();
        let device = Identity::of("a", b"c");
        let active = value_at(Some(row("a", DeviceStatus::Active, &[b"c"])), Some(700), 7);
        let suspended = value_at(Some(row("a", DeviceStatus::Suspended, &[b"c"])), Some(800), 8);
        for value in [&active, &suspended] {
            assert!(matches!(registry.record("a", value.as_deref()), Applied::Changed));
        }
        let generation = registry.generation();
        assert!(matches!(registry.record("a", active.as_deref()), Applied::Stale));
        assert_eq!(
            (registry.lookup(&device).err(), registry.generation()),
            (Some(Denied::Suspended), generation)
        );
    }

    #[test]
    fn unreadable_row_refuses_its_device_and_a_replay_does_not_bring_it_back() {
        let registry = Registry::default();
        let device = Identity::of("a", b"c");
        let active = value_at(Some(row("a", DeviceStatus::Active, &[b"c"])), Some(700), 7);
        let unreadable = br#"{"op":"u","after":{"sensor_id":"a","version":8},"source":{"lsn":800}}"#;
        registry.record("a", active.as_deref());
        assert!(matches!(registry.record("a", Some(unreadable)), Applied::Unreadable(_)));
        assert!(matches!(registry.record("a", active.as_deref()), Applied::Stale));
        assert_eq!(registry.lookup(&device), Err(Denied::Unregistered));
    }

    #[test]
    fn certificate_that_has_expired_is_denied() {
        let registry = Registry::default();
        registry.record("a", value(Some(row("a", DeviceStatus::Active, &[b"c"]))).as_deref());
        let device = Identity { not_after: NotAfter::from_unix_s(1), ..Identity::of("a", b"c") };
        assert_eq!(registry.lookup(&device), Err(Denied::Expired));
    }

    proptest! {
        #[test]
        fn last_change_of_each_sensor_wins(changes in proptest::collection::vec((0..4u8, 0..4u8), 0..40)) {
            let mut table = Table::default();
            let mut last = HashMap::new();
            for (version, (sensor, state)) in (1..).zip(changes) {
                let (sensor, status) = (format!("s{sensor}"), match state {
                    0 => None,
                    1 => Some(DeviceStatus::Active),
                    2 => Some(DeviceStatus::Suspended),
                    _ => Some(DeviceStatus::Retired),
                });
                // As versions of a sequence do, each is higher than the one before.
                let row = status.map(|status| row(&sensor, status, &[b"c"]));
                table.record(&sensor, value_at(row, None, version).as_deref());
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

//! The thresholds as a table, kept by the records of `iot-threshold-updates`. Pure.

use crate::listed::{Listed, Thresholds};
use crate::versions::Versions;
use schema::{Change, ChangeError, Order, Scope, ThresholdRow, Timestamp, Verdict};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Most unreadable keys that are remembered: enough to see that something is wrong, whatever is written
/// there.
const UNREADABLE_MAX: usize = 1_000;

/// Holds every threshold by its scope, each with its last 16 versions.
///
/// Shape: those that cover a sensor come in the order of their scopes, the most specific first, and within a
/// scope in the order of their ids, so that a reading always yields the same alerts in the same order.
#[derive(Debug, Default)]
pub struct Rules {
    of_sensor: HashMap<Box<str>, Thresholds>,
    /// By zone, then by type.
    of_zone_and_type: HashMap<Box<str>, HashMap<Box<str>, Thresholds>>,
    of_zone: HashMap<Box<str>, Thresholds>,
    of_type: HashMap<Box<str>, Thresholds>,
    by_id: HashMap<Uuid, Arc<Versions>>,
    /// Keys whose last change cannot be read.
    unreadable: BTreeSet<Vec<u8>>,
    /// How new the change is that is in force.
    order: Order<Uuid>,
}

/// Says what a change of a threshold may have changed for sensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Touched {
    /// Which threshold.
    pub threshold_id: Uuid,
    /// From when on its current version is in force; none when it is gone.
    pub in_force_since: Option<Timestamp>,
    /// The scopes that it had and has.
    pub scopes: Vec<Scope>,
    /// The metrics that it watched and watches.
    pub metrics: Vec<String>,
}

impl Touched {
    fn none(threshold_id: Uuid) -> Self {
        Self { threshold_id, in_force_since: None, scopes: Vec::new(), metrics: Vec::new() }
    }

    fn add(&mut self, versions: &Versions) {
        for row in versions.rows() {
            if !self.scopes.contains(&row.scope) {
                self.scopes.push(row.scope.clone());
            }
            if !self.metrics.contains(&row.metric) {
                self.metrics.push(row.metric.clone());
            }
        }
    }

    /// Returns the sensors that it may concern; none when a whole zone or type is among its scopes.
    pub(crate) fn sensors(&self) -> Option<Vec<&str>> {
        self.scopes.iter().map(Scope::sensor_id).collect()
    }
}

impl Rules {
    /// Applies one record; no value is a tombstone. Returns what it may have changed: a change that is older
    /// than the one in force changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`] when the record cannot be read; the threshold stays as it was (ADR 0014), and its key
    /// counts as unreadable until a change that can be read, or a tombstone.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Option<Touched>, ChangeError> {
        let applied = self.apply_readable(key, value);
        match &applied {
            // It says nothing about the change that is in force.
            Ok((Verdict::Stale, _)) => {}
            Err(_) if value.is_some() => {
                if self.unreadable.len() < UNREADABLE_MAX {
                    self.unreadable.insert(key.to_vec());
                }
            }
            Ok(_) | Err(_) => _ = self.unreadable.remove(key),
        }
        applied.map(|(_, touched)| touched)
    }

    fn apply_readable(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(Verdict, Option<Touched>), ChangeError> {
        let id = Change::<ThresholdRow>::decode_key(key)?.threshold_id;
        let verdict = self.order.check(&id, value)?;
        let touched = match (verdict, value) {
            (Verdict::Stale, _) => None,
            (Verdict::Row, Some(value)) => match Change::<ThresholdRow>::decode(value)?.after {
                // A row is held by its own key, whatever its columns say.
                Some(row) => Some(self.put(ThresholdRow { threshold_id: id, ..row })),
                None => self.remove(id),
            },
            (Verdict::Row | Verdict::Deleted, _) => self.remove(id),
        };
        Ok((verdict, touched))
    }

    /// Puts a version in force from its `updated_at` on, behind the earlier ones of its threshold.
    pub fn put(&mut self, row: ThresholdRow) -> Touched {
        let threshold_id = row.threshold_id;
        let mut touched = Touched { in_force_since: Some(row.updated_at), ..Touched::none(threshold_id) };
        let versions = match self.take(threshold_id) {
            Some(mut versions) => {
                touched.add(&versions);
                versions.add(row);
                versions
            }
            None => Versions::new(row),
        };
        touched.add(&versions);
        let versions = Arc::new(versions);
        for scope in scopes(&versions) {
            self.of_scope(&scope).insert(Listed::new(Arc::clone(&versions)));
        }
        self.by_id.insert(threshold_id, versions);
        touched
    }

    /// Takes a threshold and all its versions out of force.
    pub fn remove(&mut self, threshold_id: Uuid) -> Option<Touched> {
        let versions = self.take(threshold_id)?;
        let mut touched = Touched::none(threshold_id);
        touched.add(&versions);
        Some(touched)
    }

    fn take(&mut self, id: Uuid) -> Option<Versions> {
        let versions = self.by_id.remove(&id)?;
        for scope in scopes(&versions) {
            match &scope {
                Scope::Sensor(sensor_id) => remove(&mut self.of_sensor, sensor_id, id),
                Scope::Zone(zone_id) => remove(&mut self.of_zone, zone_id, id),
                Scope::DeviceType(device_type) => remove(&mut self.of_type, device_type, id),
                Scope::ZoneAndType { zone_id, device_type } => {
                    if let Some(of_zone) = self.of_zone_and_type.get_mut(zone_id.as_str()) {
                        remove(of_zone, device_type, id);
                        if of_zone.is_empty() {
                            self.of_zone_and_type.remove(zone_id.as_str());
                        }
                    }
                }
            }
        }
        Some(Arc::unwrap_or_clone(versions))
    }

    fn of_scope(&mut self, scope: &Scope) -> &mut Thresholds {
        match scope.clone() {
            Scope::Sensor(sensor_id) => self.of_sensor.entry(sensor_id.into()).or_default(),
            Scope::ZoneAndType { zone_id, device_type } => {
                let of_zone = self.of_zone_and_type.entry(zone_id.into()).or_default();
                of_zone.entry(device_type.into()).or_default()
            }
            Scope::Zone(zone_id) => self.of_zone.entry(zone_id.into()).or_default(),
            Scope::DeviceType(device_type) => self.of_type.entry(device_type.into()).or_default(),
        }
    }

    /// Returns what may cover a sensor, by the kind of scope: sensor, zone and type, zone, type.
    pub(crate) fn by_scope(&self, sensor_id: &str, zone_id: &str, device_type: &str) -> [&[Listed]; 4] {
        let of_both = self.of_zone_and_type.get(zone_id).and_then(|of_zone| of_zone.get(device_type));
        let scopes = [
            self.of_sensor.get(sensor_id),
            of_both,
            self.of_zone.get(zone_id),
            self.of_type.get(device_type),
        ];
        scopes.map(|thresholds| thresholds.map_or(&[][..], Thresholds::as_slice))
    }

    /// Returns the thresholds that cover a sensor now, given where it is and what it is.
    pub fn of(
        &self,
        sensor_id: &str,
        zone_id: &str,
        device_type: &str,
    ) -> impl Iterator<Item = &ThresholdRow> {
        let scopes = self.by_scope(sensor_id, zone_id, device_type).into_iter().enumerate();
        let current = scopes.flat_map(|(rank, thresholds)| {
            let current = thresholds.iter().map(|listed| listed.versions.current());
            current.filter(move |row| self::rank(row) == rank)
        });
        // One may be listed for an earlier version that covered another sensor.
        current.filter(move |row| row.scope.covers(sensor_id, zone_id, device_type))
    }

    /// Returns the versions of a threshold.
    pub(crate) fn versions(&self, threshold_id: Uuid) -> Option<&Versions> {
        self.by_id.get(&threshold_id).map(AsRef::as_ref)
    }

    /// Counts the keys whose last change cannot be read, up to 1,000.
    pub fn unreadable_count(&self) -> usize {
        self.unreadable.len()
    }

    /// Counts the thresholds.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }
}

/// Ranks a version by its scope, the most specific first.
pub(crate) fn rank(row: &ThresholdRow) -> usize {
    match row.scope {
        Scope::Sensor(_) => 0,
        Scope::ZoneAndType { .. } => 1,
        Scope::Zone(_) => 2,
        Scope::DeviceType(_) => 3,
    }
}

/// Lists the scopes of all known versions, each once.
fn scopes(versions: &Versions) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = Vec::with_capacity(1);
    for row in versions.rows() {
        if !scopes.contains(&row.scope) {
            scopes.push(row.scope.clone());
        }
    }
    scopes
}

/// Removes a threshold, and its scope with the last one.
fn remove(of: &mut HashMap<Box<str>, Thresholds>, name: &str, id: Uuid) {
    if let Some(of_name) = of.get_mut(name) {
        of_name.remove(id);
        if of_name.as_slice().is_empty() {
            of.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn key(id: u128) -> Vec<u8> {
        json!({"threshold_id": Uuid::from_u128(id)}).to_string().into_bytes()
    }

    fn value(op: &str, id: u128, sensor: &str, version: i64) -> Vec<u8> {
        scoped(op, id, &Scope::Sensor(sensor.to_owned()), version)
    }

    fn scoped(op: &str, id: u128, scope: &Scope, version: i64) -> Vec<u8> {
        let mut row = json!({
            "threshold_id": Uuid::from_u128(id), "metric": "m", "min_value": null,
            "max_value": 1.0, "severity": "info", "mode": "live", "description": "", "version": version,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
        });
        let Value::Object(columns) = serde_json::to_value(scope).unwrap() else { panic!("columns") };
        row.as_object_mut().unwrap().extend(columns);
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        json!({"op": op, "before": before, "after": after, "ts_ms": 0}).to_string().into_bytes()
    }

    fn versions(rules: &Rules, sensor: &str) -> Vec<(u128, i64)> {
        rules.of(sensor, "z", "T").map(|row| (row.threshold_id.as_u128(), row.version)).collect()
    }

    #[test]
    fn last_change_of_a_threshold_is_in_force() {
        let mut rules = Rules::default();
        rules.apply(&key(2), Some(&value("r", 2, "a", 1))).unwrap();
        rules.apply(&key(1), Some(&value("c", 1, "a", 1))).unwrap();
        rules.apply(&key(2), Some(&value("u", 2, "a", 2))).unwrap();
        assert_eq!(versions(&rules, "a"), [(1, 1), (2, 2)]);
        rules.apply(&key(2), Some(&value("u", 2, "b", 3))).unwrap();
        assert_eq!((versions(&rules, "a"), versions(&rules, "b")), (vec![(1, 1)], vec![(2, 3)]));
        rules.apply(&key(1), Some(&value("d", 1, "a", 1))).unwrap();
        rules.apply(&key(2), None).unwrap();
        assert_eq!((rules.count(), rules.of_sensor.len()), (0, 0));
    }

    fn any_scope() -> impl Strategy<Value = Scope> {
        let name = || prop_oneof![Just("a".to_owned()), Just("b".to_owned())];
        prop_oneof![
            name().prop_map(Scope::Sensor),
            name().prop_map(Scope::Zone),
            name().prop_map(Scope::DeviceType),
            (name(), name()).prop_map(|(zone_id, device_type)| Scope::ZoneAndType { zone_id, device_type }),
        ]
    }

    #[test]
    fn replayed_change_does_not_put_an_older_row_in_force() {
        let mut rules = Rules::default();
        let changes = [value("c", 1, "a", 1), value("u", 1, "a", 2), value("u", 1, "a", 3)];
        for change in &changes {
            rules.apply(&key(1), Some(change)).unwrap();
        }
        // A capturer sends again what it had not confirmed, and may stop anywhere in it.
        for change in &changes[..2] {
            rules.apply(&key(1), Some(change)).unwrap();
            assert_eq!(versions(&rules, "a"), [(1, 3)]);
        }
        // Nor does it bring back what was deleted, or say anything about a change that cannot be read.
        assert!(rules.apply(&key(1), Some(br#"{"op":"u","after":{"version":4}}"#)).is_err());
        rules.apply(&key(1), Some(&changes[1])).unwrap();
        assert_eq!((rules.unreadable_count(), versions(&rules, "a")), (1, vec![(1, 3)]));
        rules.apply(&key(1), Some(&value("d", 1, "a", 4))).unwrap();
        rules.apply(&key(1), None).unwrap();
        rules.apply(&key(1), Some(&changes[2])).unwrap();
        assert_eq!((rules.unreadable_count(), rules.count()), (0, 0));
    }

    #[test]
    fn record_that_cannot_be_read_changes_nothing() {
        let mut rules = Rules::default();
        rules.apply(&key(1), Some(&value("c", 1, "a", 1))).unwrap();
        assert!(rules.apply(&key(1), Some(b"{}")).is_err());
        assert!(rules.apply(b"1", None).is_err());
        assert_eq!(versions(&rules, "a"), [(1, 1)]);
    }

    #[test]
    fn key_is_unreadable_until_a_change_that_can_be_read_or_a_tombstone() {
        let mut rules = Rules::default();
        for bad in [key(1), key(2), b"1".to_vec()] {
            assert!(rules.apply(&bad, Some(b"{}")).is_err());
        }
        assert_eq!(rules.unreadable_count(), 3);
        rules.apply(&key(1), Some(&value("u", 1, "a", 2))).unwrap();
        rules.apply(&key(2), None).unwrap();
        assert!(rules.apply(b"1", None).is_err());
        assert_eq!((rules.unreadable_count(), versions(&rules, "a")), (0, vec![(1, 2)]));
    }

    proptest! {
        // Each change puts a threshold in a scope or deletes it; the model is a map that is searched whole.
        #[test]
        fn any_changes_leave_exactly_the_thresholds_that_cover_a_sensor(
            changes in prop::collection::vec((0_u128..6, prop::option::of(any_scope())), 0..30),
        ) {
            let (mut rules, mut model) = (Rules::default(), BTreeMap::new());
            for (version, (id, scope)) in (1..).zip(changes) {
                match scope {
                    Some(scope) => {
                        rules.apply(&key(id), Some(&scoped("u", id, &scope, version))).unwrap();
                        model.insert(id, scope);
                    }
                    None => {
                        rules.apply(&key(id), None).unwrap();
                        model.remove(&id);
                    }
                }
            }
            prop_assert_eq!(rules.count(), model.len());
            for (sensor, zone, kind) in [("a", "a", "a"), ("a", "b", "a"), ("b", "a", "b"), ("c", "a", "c")] {
                let mut found: Vec<_> =
                    rules.of(sensor, zone, kind).map(|row| row.threshold_id.as_u128()).collect();
                found.sort_unstable();
                let covering = model.iter().filter(|(_, scope)| scope.covers(sensor, zone, kind));
                prop_assert_eq!(found, covering.map(|(id, _)| *id).collect::<Vec<_>>());
            }
            for id in 0..6 {
                rules.apply(&key(id), None).unwrap();
            }
            let left = (rules.of_sensor.len(), rules.of_zone_and_type.len(), rules.of_zone.len(), rules.of_type.len());
            prop_assert_eq!(left, (0, 0, 0, 0));
        }

        #[test]
        fn any_bytes_are_applied_or_refused_without_a_panic(key: Vec<u8>, value: Option<Vec<u8>>) {
            let _ = Rules::default().apply(&key, value.as_deref());
        }
    }
}

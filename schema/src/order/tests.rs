//! Histories of one row, sent in order, again, late, and after a restore.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A record: none is a tombstone.
type Record = Option<Vec<u8>>;

/// One statement's effect on the row.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It is created, or updated when it is there.
    Write,
    /// It is deleted, if it is there.
    Delete,
    /// The transaction ends: what follows has a higher LSN.
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![4 => Just(Step::Write), 2 => Just(Step::Delete), 3 => Just(Step::Commit)];
    vec(step, 1..20)
}

fn change(op: &str, lsn: Option<u64>, version: i64, snapshot: bool, ts_ms: i64) -> Vec<u8> {
    let row = json!({ "sensor_id": "a", "version": version });
    let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
    let source = json!({ "lsn": lsn, "snapshot": snapshot.to_string() });
    json!({ "op": op, "before": before, "after": after, "source": source, "ts_ms": ts_ms })
        .to_string()
        .into_bytes()
}

/// Returns the records of a history, and the version of the row at its end. Versions come from a sequence.
fn history(steps: &[Step], has_lsn: bool) -> (Vec<Record>, Option<i64>) {
    let (mut records, mut lsn, mut version, mut row) = (Vec::new(), 100, 0, None);
    for (ts_ms, step) in (0..).zip(steps) {
        let at = has_lsn.then_some(lsn);
        match (step, row) {
            (Step::Write, _) => {
                let op = if row.is_some() { "u" } else { "c" };
                version += 1;
                row = Some(version);
                records.push(Some(change(op, at, version, false, ts_ms)));
            }
            (Step::Delete, Some(last)) => {
                row = None;
                records.extend([Some(change("d", at, last, false, ts_ms)), None]);
            }
            (Step::Delete, None) => {}
            (Step::Commit, _) => lsn += 10,
        }
    }
    (records, row)
}

/// A table of one key, as its readers hold it.
#[derive(Default)]
struct Table {
    order: Order<u8>,
    version: Option<i64>,
}

impl Table {
    fn apply(&mut self, record: &Record) {
        match self.order.check(&0, record.as_deref()).unwrap() {
            Verdict::Row => {
                let value: Value = serde_json::from_slice(record.as_deref().unwrap()).unwrap();
                self.version = value["after"]["version"].as_i64();
            }
            Verdict::Deleted => self.version = None,
            Verdict::Stale => {}
        }
    }

    fn apply_all<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) {
        records.into_iter().for_each(|record| self.apply(record));
    }
}

proptest! {
    #[test]
    fn whatever_is_sent_again_the_last_change_stays_in_force(
        steps in steps(),
        has_lsn: bool,
        replays in vec((0..40usize, 0..40usize), 0..6),
    ) {
        let (records, last) = history(&steps, has_lsn);
        let mut table = Table::default();
        table.apply_all(&records);
        prop_assert_eq!(table.version, last);
        for (from, count) in replays {
            // A capturer begins again with any change and stops anywhere, also between a delete and its
            // tombstone.
            table.apply_all(records.iter().skip(from).skip_while(|record| record.is_none()).take(count));
            prop_assert_eq!(table.version, last);
        }
    }

    #[test]
    fn key_that_moved_to_another_partition_ends_with_its_last_change(
        steps in steps(),
        moved_at in 0..20usize,
        turns in vec(any::<bool>(), 0..60),
    ) {
        let (records, last) = history(&steps, true);
        let (old, new) = records.split_at(moved_at.min(records.len()));
        // A delete and its tombstone are in one transaction, so in one partition.
        prop_assume!(new.first() != Some(&None));
        let (mut old, mut new) = (old.iter(), new.iter());
        let mut table = Table::default();
        for is_old in turns {
            let record = if is_old { old.next() } else { new.next() };
            record.into_iter().for_each(|record| table.apply(record));
        }
        table.apply_all(new);
        table.apply_all(old);
        prop_assert_eq!(table.version, last);
    }

    #[test]
    fn snapshot_of_a_restored_database_is_in_force_and_so_is_what_follows(
        lost in steps(),
        lsn in 0..90u64,
        version in -50..50i64,
        again in 0..40i64,
    ) {
        let (records, _) = history(&lost, true);
        let mut table = Table::default();
        table.apply_all(&records);
        table.apply(&Some(change("r", Some(lsn), version, true, 1_000)));
        prop_assert_eq!(table.version, Some(version));
        table.apply(&Some(change("u", Some(lsn + 1), version + 1, false, 1_001)));
        table.apply(&Some(change("r", Some(lsn), version, true, 1_000)));
        prop_assert_eq!(table.version, Some(version + 1), "the snapshot's row came again");
        let deleted = [Some(change("d", Some(lsn + 2), version + 1, false, 1_002)), None];
        table.apply_all(&deleted);
        prop_assert_eq!(table.version, None);
        table.apply(&Some(change("c", Some(lsn + 3), version + 2 + again, false, 1_003)));
        prop_assert!(table.version.is_some(), "created anew");
    }

    #[test]
    fn any_bytes_are_checked_or_refused_without_a_panic(values: Vec<Option<Vec<u8>>>) {
        let mut order = Order::default();
        for value in values {
            let _ = order.check(&0, value.as_deref());
        }
    }
}

#[test]
fn suspension_survives_the_replay_of_an_activation_that_stops_before_it() {
    let mut table = Table::default();
    let active = Some(change("u", Some(700), 7, false, 1));
    table.apply_all(&[active.clone(), Some(change("u", Some(800), 8, false, 2))]);
    table.apply(&active);
    assert_eq!(table.version, Some(8));
}

#[test]
fn deleted_row_does_not_come_back_with_a_replay_nor_go_with_a_late_tombstone() {
    let mut table = Table::default();
    let (created, deleted) =
        (Some(change("c", Some(1), 1, false, 1)), Some(change("d", Some(2), 1, false, 2)));
    table.apply_all(&[created.clone(), deleted.clone(), None, created.clone()]);
    assert_eq!(table.version, None);
    let anew = Some(change("c", Some(3), 2, false, 3));
    table.apply_all(&[anew, created, deleted, None]);
    assert_eq!(table.version, Some(2), "a stale delete takes its tombstone with it");
    table.apply(&None);
    assert_eq!(table.version, None, "a tombstone that stands alone deletes");
}

#[test]
fn change_after_a_standby_took_over_is_in_force_though_its_lsn_is_lower() {
    let mut table = Table::default();
    table.apply_all(&[Some(change("u", Some(200), 8, false, 1)), Some(change("u", Some(195), 40, false, 2))]);
    assert_eq!(table.version, Some(40));
}

#[test]
fn row_that_a_snapshot_read_outweighs_the_same_snapshots_delete_of_the_key_in_another_form() {
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        let mut table = Table::default();
        table.apply(&Some(change("u", Some(10), 3, false, 1)));
        let records =
            [Some(change("r", Some(20), 3, true, 5)), Some(change("d", Some(20), 3, true, 5)), None];
        table.apply_all(order.map(|index| &records[index]));
        assert_eq!(table.version, Some(3), "{order:?}");
    }
}

#[test]
fn delete_is_read_without_the_row_that_it_deletes() {
    let before = json!({ "sensor_id": "a", "status": "of a later release" });
    let source = json!({ "lsn": 9, "snapshot": "false" });
    let delete =
        json!({ "payload": { "op": "d", "before": before, "after": null, "source": source, "ts_ms": 3 } });
    let mut order = Order::default();
    order.check(&0, Some(&change("c", Some(8), 1, false, 1))).unwrap();
    assert_eq!(order.check(&0, Some(delete.to_string().as_bytes())).unwrap(), Verdict::Deleted);
    assert_eq!(order.check(&0, Some(&change("c", Some(8), 1, false, 1))).unwrap(), Verdict::Stale);
}

#[test]
fn row_before_an_unreadable_record_does_not_come_back_with_a_replay() {
    let (mut order, row) = (Order::default(), change("u", Some(8), 5, false, 1));
    assert_eq!(order.check(&0, Some(&row)).unwrap(), Verdict::Row);
    assert!(order.check(&0, Some(b"{}")).is_err());
    assert_eq!(order.check(&0, Some(&row)).unwrap(), Verdict::Stale);
    assert_eq!(order.check(&0, Some(&change("u", Some(9), 6, false, 1))).unwrap(), Verdict::Row);
}

#[test]
fn deleted_keys_are_remembered_up_to_their_bound() {
    let mut order = Order::default();
    let keys = u32::try_from(DELETED_KEYS_MAX).unwrap() + 7;
    order.check(&keys, Some(&change("c", Some(1), 1, false, 1))).unwrap();
    let deleted = change("d", Some(2), 1, false, 1);
    for key in 0..keys {
        order.check(&key, Some(&deleted)).unwrap();
    }
    assert_eq!(order.len(), DELETED_KEYS_MAX + 1, "and the one that has a row");
    let again = change("c", Some(1), 1, false, 1);
    assert_eq!(order.check(&(keys - 1), Some(&again)).unwrap(), Verdict::Stale);
}

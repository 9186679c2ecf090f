//! Records that the database refused on their own and that are tried again, beside the batches that go on.
//! Pure.
//!
//! Only the offsets wait for them: a partition is committed up to the first of its records that is undecided.

use crate::batch::{Batch, Next};
use std::collections::BTreeMap;
use std::time::Instant;

/// Most records of a lane that wait for another try; one more is a dead letter at once. Each costs up to two
/// statements more, and a device that sends very many of them must not get these from its neighbours.
pub(crate) const PENDING_MAX: usize = 16;

/// Holds one record that was refused.
pub(crate) struct Refused {
    /// The record alone.
    pub(crate) batch: Batch,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The version of the assignment under which it came.
    pub(crate) version: u64,
    pub(crate) tries: u32,
    pub(crate) due: Instant,
}

/// Holds what is undecided, and how far its partitions have come otherwise.
#[derive(Default)]
pub(crate) struct Pending {
    records: Vec<Refused>,
    stored: BTreeMap<i32, Next>,
}

impl Pending {
    /// Says whether it may take one more.
    pub(crate) fn has_room(&self) -> bool {
        self.records.len() < PENDING_MAX
    }

    /// Keeps a record for another try.
    pub(crate) fn push(&mut self, refused: Refused) {
        self.records.push(refused);
    }

    /// Returns when the next try is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.records.iter().map(|refused| refused.due).min()
    }

    /// Takes out a record whose next try is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Refused> {
        let place = self.records.iter().position(|refused| refused.due <= now)?;
        Some(self.records.remove(place))
    }

    /// Forgets the records for which `keep`, given partition and version of the assignment, is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(i32, u64) -> bool) {
        self.records.retain(|refused| keep(refused.partition, refused.version));
        self.stored.retain(|partition, next| keep(*partition, next.version));
    }

    /// Returns how far each partition may be committed, now that what lies before `stored` is a row, a dead
    /// letter, or here.
    pub(crate) fn committable(&mut self, stored: &BTreeMap<i32, Next>) -> BTreeMap<i32, Next> {
        self.stored.extend(stored);
        let mut ready = self.stored.clone();
        for refused in &self.records {
            if let Some(next) = ready.get_mut(&refused.partition) {
                next.offset = next.offset.min(refused.offset);
            }
        }
        // A partition without such records need not be remembered.
        self.stored.retain(|partition, _| self.records.iter().any(|refused| refused.partition == *partition));
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(partition: i32, offset: i64) -> Refused {
        Refused { batch: Batch::default(), partition, offset, version: 1, tries: 1, due: Instant::now() }
    }

    fn next(offset: i64) -> Next {
        Next { offset, first_version: 1, version: 1 }
    }

    fn offsets(ready: &BTreeMap<i32, Next>) -> Vec<(i32, i64)> {
        ready.iter().map(|(partition, next)| (*partition, next.offset)).collect()
    }

    #[test]
    fn offsets_wait_for_the_first_undecided_record_and_for_no_other() {
        let mut pending = Pending::default();
        pending.push(refused(0, 30));
        pending.push(refused(0, 20));
        assert_eq!(offsets(&pending.committable(&[(0, next(50)), (1, next(9))].into())), [(0, 20), (1, 9)]);
        assert_eq!(offsets(&pending.committable(&[(0, next(70))].into())), [(0, 20)]);
        assert_eq!(pending.take_due(Instant::now()).map(|refused| refused.offset), Some(30));
        assert_eq!(offsets(&pending.committable(&BTreeMap::new())), [(0, 20)]);
        assert_eq!(pending.take_due(Instant::now()).map(|refused| refused.offset), Some(20));
        assert_eq!(
            offsets(&pending.committable(&BTreeMap::new())),
            [(0, 70)],
            "all that was stored meanwhile"
        );
        assert_eq!(offsets(&pending.committable(&BTreeMap::new())), []);
    }

    #[test]
    fn what_another_instance_reads_again_is_forgotten() {
        let mut pending = Pending::default();
        pending.push(refused(0, 20));
        pending.committable(&[(0, next(50))].into());
        pending.retain(|_, _| false);
        assert_eq!((pending.due(), offsets(&pending.committable(&BTreeMap::new()))), (None, vec![]));
    }
}

//! Which events have caused an alert already, per partition and bounded. Pure.

use std::collections::{BTreeMap, HashSet, VecDeque};
use uuid::Uuid;

/// Names what an alert is deduplicated by: one event met one threshold.
///
/// Not the alert's id: a device that sends its reading again after the threshold was edited must not cause
/// a second alert either, and the id counts the threshold's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey {
    /// Which threshold.
    pub threshold_id: Uuid,
    /// Which event.
    pub event_id: Uuid,
}

/// Holds the window of each partition that this instance is assigned, and apart from them the keys of the
/// open transaction, so that an abort forgets exactly what it undoes.
#[derive(Debug)]
pub struct Dedup {
    capacity: usize,
    partitions: BTreeMap<i32, DedupWindow>,
    open: Vec<(i32, DedupKey)>,
    open_keys: HashSet<(i32, DedupKey)>,
}

/// Holds the last keys of one partition, the oldest first.
#[derive(Debug)]
pub struct DedupWindow {
    capacity: usize,
    order: VecDeque<DedupKey>,
    known: HashSet<DedupKey>,
}

impl DedupWindow {
    /// Starts empty; `capacity` counts keys.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), order: VecDeque::new(), known: HashSet::new() }
    }

    /// Says whether a key is among the last.
    pub(crate) fn contains(&self, key: &DedupKey) -> bool {
        self.known.contains(key)
    }

    /// Adds a key, and forgets the oldest one beyond the capacity.
    pub fn insert(&mut self, key: DedupKey) {
        if !self.known.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Dedup {
    /// Starts without any partition; `capacity` counts keys per partition.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            partitions: BTreeMap::new(),
            open: Vec::new(),
            open_keys: HashSet::new(),
        }
    }

    /// Takes over the restored window of a partition.
    pub fn restore(&mut self, partition: i32, window: DedupWindow) {
        self.partitions.insert(partition, window);
    }

    /// Says whether a partition is restored: before that, no reading of it may be evaluated.
    pub fn is_restored(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Adds a key to the open transaction; returns false when it is known already.
    pub fn insert(&mut self, partition: i32, key: DedupKey) -> bool {
        let is_known = self.partitions.get(&partition).is_some_and(|window| window.known.contains(&key));
        if is_known || !self.open_keys.insert((partition, key)) {
            return false;
        }
        self.open.push((partition, key));
        true
    }

    /// Keeps the keys of the open transaction: it is committed.
    pub fn commit(&mut self) {
        self.open_keys.clear();
        for (partition, key) in self.open.drain(..) {
            let window = self.partitions.entry(partition);
            window.or_insert_with(|| DedupWindow::new(self.capacity)).insert(key);
        }
    }

    /// Forgets the keys of the open transaction: it is aborted.
    pub fn abort(&mut self) {
        self.open.clear();
        self.open_keys.clear();
    }

    /// Forgets a partition, which another instance may own from now on.
    pub fn remove(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(event: u128) -> DedupKey {
        DedupKey { threshold_id: Uuid::from_u128(0), event_id: Uuid::from_u128(event) }
    }

    #[test]
    fn partitions_are_restored_and_removed_apart() {
        let mut dedup = Dedup::new(10);
        assert!(!dedup.is_restored(0));
        dedup.restore(0, DedupWindow::new(10));
        assert!(dedup.is_restored(0));
        assert!(dedup.insert(0, key(1)) && dedup.insert(1, key(1)));
        dedup.commit();
        dedup.remove(0);
        assert!(dedup.insert(0, key(1)) && !dedup.insert(1, key(1)));
    }

    proptest! {
        // Each transaction is a list of events, and ends in a commit or an abort.
        #[test]
        fn exactly_the_last_keys_of_commits_and_of_the_open_transaction_are_known(
            transactions in prop::collection::vec((prop::collection::vec(0_u128..40, 0..30), any::<bool>()), 0..12),
            capacity in 1_usize..20,
        ) {
            let mut dedup = Dedup::new(capacity);
            let mut committed: Vec<u128> = Vec::new();
            for (events, is_committed) in transactions {
                let mut open: Vec<u128> = Vec::new();
                for event in events {
                    let is_known = committed.contains(&event) || open.contains(&event);
                    prop_assert_eq!(dedup.insert(0, key(event)), !is_known);
                    if !is_known {
                        open.push(event);
                    }
                }
                if is_committed {
                    dedup.commit();
                    committed.extend(open);
                    committed.drain(..committed.len().saturating_sub(capacity));
                } else {
                    dedup.abort();
                }
                let held = dedup.partitions.get(&0).map_or(0, |window| window.known.len());
                prop_assert_eq!(held, committed.len());
            }
        }
    }
}

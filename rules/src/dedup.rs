//! Remembers what has caused an alert already, per partition and bounded. Pure.

use schema::Alert;
use std::collections::{BTreeMap, HashSet, VecDeque};
use uuid::Uuid;

/// Names what causes an alert: one event met one threshold.
///
/// Not the alert's id: a device that sends its reading again after the threshold was edited must not cause a second
/// alert either, and the id counts the threshold's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Which threshold.
    pub threshold_id: Uuid,
    /// Which event.
    pub event_id: Uuid,
}

impl From<&Alert> for Cause {
    fn from(alert: &Alert) -> Self {
        Self { threshold_id: alert.threshold_id, event_id: alert.event_id }
    }
}

/// Holds the last causes of each partition that this instance owns: those of committed alerts, and apart from
/// them those of the open transaction, so that an abort forgets exactly what it undoes.
#[derive(Debug)]
pub struct Memory {
    capacity: usize,
    partitions: BTreeMap<i32, Recent>,
    noted: Vec<(i32, Cause)>,
    noted_known: HashSet<(i32, Cause)>,
}

/// The last causes of one partition, the oldest first.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    order: VecDeque<Cause>,
    known: HashSet<Cause>,
}

impl Recent {
    /// Starts empty; `capacity` counts causes.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), order: VecDeque::new(), known: HashSet::new() }
    }

    /// Remembers a cause, and forgets the oldest one beyond the capacity.
    pub fn remember(&mut self, cause: Cause) {
        if !self.known.insert(cause) {
            return;
        }
        self.order.push_back(cause);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Memory {
    /// Starts without any partition; `capacity` counts causes per partition.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            partitions: BTreeMap::new(),
            noted: Vec::new(),
            noted_known: HashSet::new(),
        }
    }

    /// Takes over what was recalled of a partition.
    pub fn begin(&mut self, partition: i32, recent: Recent) {
        self.partitions.insert(partition, recent);
    }

    /// Says whether a partition has been recalled: before that, nothing may be judged by this memory.
    pub fn is_whole(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// Notes a cause of the open transaction; returns false when it is known already.
    pub fn note(&mut self, partition: i32, cause: Cause) -> bool {
        let is_known = self.partitions.get(&partition).is_some_and(|recent| recent.known.contains(&cause));
        if is_known || !self.noted_known.insert((partition, cause)) {
            return false;
        }
        self.noted.push((partition, cause));
        true
    }

    /// Remembers what was noted: the transaction is committed.
    pub fn settle(&mut self) {
        self.noted_known.clear();
        for (partition, cause) in self.noted.drain(..) {
            let recent = self.partitions.entry(partition);
            recent.or_insert_with(|| Recent::new(self.capacity)).remember(cause);
        }
    }

    /// Forgets what was noted: the transaction is aborted.
    pub fn discard(&mut self) {
        self.noted.clear();
        self.noted_known.clear();
    }

    /// Forgets a partition, which another instance may own from now on.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cause(event: u128) -> Cause {
        Cause { threshold_id: Uuid::from_u128(0), event_id: Uuid::from_u128(event) }
    }

    #[test]
    fn partitions_are_remembered_and_forgotten_apart() {
        let mut memory = Memory::new(10);
        assert!(!memory.is_whole(0));
        memory.begin(0, Recent::new(10));
        assert!(memory.is_whole(0));
        assert!(memory.note(0, cause(1)) && memory.note(1, cause(1)));
        memory.settle();
        memory.forget(0);
        assert!(memory.note(0, cause(1)) && !memory.note(1, cause(1)));
    }

    proptest! {
        /// Each transaction is a list of events, and ends in a commit or an abort.
        #[test]
        fn exactly_the_last_causes_of_commits_and_of_the_open_transaction_are_known(
            transactions in prop::collection::vec((prop::collection::vec(0_u128..40, 0..30), any::<bool>()), 0..12),
            capacity in 1_usize..20,
        ) {
            let mut memory = Memory::new(capacity);
            let mut committed: Vec<u128> = Vec::new();
            for (events, is_committed) in transactions {
                let mut open: Vec<u128> = Vec::new();
                for event in events {
                    let is_known = committed.contains(&event) || open.contains(&event);
                    prop_assert_eq!(memory.note(0, cause(event)), !is_known);
                    if !is_known {
                        open.push(event);
                    }
                }
                if is_committed {
                    memory.settle();
                    committed.extend(open);
                    committed.drain(..committed.len().saturating_sub(capacity));
                } else {
                    memory.discard();
                }
                let held = memory.partitions.get(&0).map_or(0, |recent| recent.known.len());
                prop_assert_eq!(held, committed.len());
            }
        }
    }
}

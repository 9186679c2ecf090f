//! Which partitions a consumer has, shared between the loop that polls it and whoever works for it.

use parking_lot::Mutex;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// Holds the assigned partitions of one topic. Cheap to clone; every clone is the same assignment.
///
/// Guarantee: each change has a version of its own, counted from 1, so that whoever took a record under one
/// version can say later whether its partition has been held without a break ([`Assignment::holds_since`]).
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    ends: u64,
    partitions: BTreeMap<i32, Held>,
}

/// Holds what is known of an assigned partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// The version that began it.
    since: u64,
    /// How far a reader without committed offsets has come.
    pub(super) reached: Option<i64>,
    /// The last time that the client was told of the partition's end.
    pub(super) ended: Option<Ended>,
    pub(super) is_paused: bool,
}

/// Holds one arrival at the end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Tells arrivals apart.
    pub(super) number: u64,
    /// The offset after the last record before it.
    pub(super) next: i64,
}

impl Assignment {
    /// Adds partitions; one that is there already begins anew.
    pub fn assign(&self, partitions: impl IntoIterator<Item = i32>) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        let held = Held { since: inner.version, ..Held::default() };
        inner.partitions.extend(partitions.into_iter().map(|partition| (partition, held)));
        drop(inner);
        self.changed.notify_one();
    }

    /// Takes partitions away.
    pub fn revoke(&self, partitions: impl IntoIterator<Item = i32>) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        for partition in partitions {
            inner.partitions.remove(&partition);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits for a change that nobody has waited for yet. May be dropped while it waits. One task at a time
    /// waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the version, which every change makes greater.
    pub fn version(&self) -> u64 {
        self.inner.lock().version
    }

    /// Lists the assigned partitions.
    pub fn partitions(&self) -> BTreeSet<i32> {
        self.inner.lock().partitions.keys().copied().collect()
    }

    /// Says whether the partition is held, and has been without a break since that version.
    pub fn holds_since(&self, partition: i32, version: u64) -> bool {
        self.inner.lock().partitions.get(&partition).is_some_and(|held| held.since <= version)
    }

    /// Notes which of the partitions are paused, for the metric.
    pub fn set_paused(&self, paused: &BTreeSet<i32>) {
        for (partition, held) in &mut self.inner.lock().partitions {
            held.is_paused = paused.contains(partition);
        }
    }

    /// Notes how far a reader has come that commits no offsets: `next` is the offset after its last record.
    pub fn reach(&self, partition: i32, next: i64) {
        if let Some(held) = self.inner.lock().partitions.get_mut(&partition) {
            held.reached = Some(next);
        }
    }

    /// Notes that the client was told of the partition's end (`enable.partition.eof`), after the record
    /// before `next`. What lies from there to the end offset are then markers of transactions, which no
    /// consumer sees.
    pub fn end(&self, partition: i32, next: i64) {
        let mut inner = self.inner.lock();
        inner.ends += 1;
        let ended = Ended { number: inner.ends, next };
        if let Some(held) = inner.partitions.get_mut(&partition) {
            held.ended = Some(ended);
        }
    }

    pub(super) fn held(&self) -> BTreeMap<i32, Held> {
        self.inner.lock().partitions.clone()
    }
}

/// Lists the partition numbers, as a rebalance callback is given them.
pub fn partitions_of(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_left_and_came_back_is_not_held_without_a_break() {
        let assignment = Assignment::default();
        assignment.assign([1, 2]);
        let version = assignment.version();
        assignment.revoke([1]);
        assert!(!assignment.holds_since(1, version) && assignment.holds_since(2, version));
        assignment.assign([1]);
        assert!(!assignment.holds_since(1, version) && assignment.holds_since(1, assignment.version()));
        assert_eq!(assignment.partitions(), [1, 2].into());
    }
}

//! Which events have caused an alert already, the last ones of a partition. Pure.

use std::collections::{HashSet, VecDeque};
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

//! Remembers what has caused an alert already, per partition and bounded. Pure.

use schema::Alert;
use std::collections::{HashMap, HashSet, VecDeque};
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

/// Holds the last causes of each partition that this instance owns.
#[derive(Debug)]
pub struct Memory {
    capacity: usize,
    partitions: HashMap<i32, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<Cause>,
    known: HashSet<Cause>,
}

impl Memory {
    /// Starts empty; `capacity` counts causes per partition.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), partitions: HashMap::new() }
    }

    /// Remembers a cause and forgets the oldest one beyond the capacity; returns false when it was known.
    pub fn remember(&mut self, partition: i32, cause: Cause) -> bool {
        let recent = self.partitions.entry(partition).or_default();
        if !recent.known.insert(cause) {
            return false;
        }
        recent.order.push_back(cause);
        if recent.order.len() > self.capacity
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.known.remove(&oldest);
        }
        true
    }

    /// Forgets a partition, which another instance may own from now on.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Returns how many causes are remembered per partition.
    pub fn capacity(&self) -> usize {
        self.capacity
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
        assert!(memory.remember(0, cause(1)) && memory.remember(1, cause(1)));
        memory.forget(0);
        assert!(memory.remember(0, cause(1)) && !memory.remember(1, cause(1)));
    }

    proptest! {
        #[test]
        fn exactly_the_last_causes_are_known(events in proptest::collection::vec(0_u128..40, 0..200), capacity in 1_usize..20) {
            let mut memory = Memory::new(capacity);
            let mut model: Vec<u128> = Vec::new();
            for event in events {
                let known = model.contains(&event);
                prop_assert_eq!(memory.remember(0, cause(event)), !known);
                if !known {
                    model.push(event);
                    if model.len() > capacity {
                        model.remove(0);
                    }
                }
                prop_assert_eq!(memory.partitions[&0].known.len(), model.len());
            }
        }
    }
}

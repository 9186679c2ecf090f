//! The alerts that a partition has had, with those of the open transaction apart. Pure.

use crate::dedup::{DedupKey, DedupWindow};
use std::collections::HashSet;
use uuid::Uuid;

/// Knows which events have caused an alert already: one that comes again causes none.
#[derive(Debug)]
pub(crate) struct Seen {
    window: DedupWindow,
    open: Vec<DedupKey>,
    open_keys: HashSet<DedupKey>,
}

impl Seen {
    /// Begins with the alerts that are known.
    pub(crate) fn new(window: DedupWindow) -> Self {
        Self { window, open: Vec::new(), open_keys: HashSet::new() }
    }

    /// Says whether an event has caused an alert of a threshold.
    pub(crate) fn knows(&self, threshold_id: Uuid, event_id: Uuid) -> bool {
        let key = DedupKey { threshold_id, event_id };
        self.open_keys.contains(&key) || self.window.contains(&key)
    }

    /// Adds an event to the open transaction; returns false when it is known already.
    pub(crate) fn insert(&mut self, threshold_id: Uuid, event_id: Uuid) -> bool {
        if self.knows(threshold_id, event_id) {
            return false;
        }
        let key = DedupKey { threshold_id, event_id };
        self.open.push(key);
        self.open_keys.insert(key)
    }

    /// Keeps the events of the open transaction: it is committed.
    pub(crate) fn commit(&mut self) {
        self.open_keys.clear();
        for key in self.open.drain(..) {
            self.window.insert(key);
        }
    }

    /// Forgets the events of the open transaction: it is aborted.
    pub(crate) fn abort(&mut self) {
        self.open.clear();
        self.open_keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Each transaction is a list of events, and ends in a commit or an abort.
        #[test]
        fn exactly_the_last_keys_of_commits_and_of_the_open_transaction_are_known(
            transactions in prop::collection::vec((prop::collection::vec(0_u128..40, 0..30), any::<bool>()), 0..12),
            capacity in 1_usize..20,
        ) {
            let threshold_id = Uuid::from_u128(0);
            let mut seen = Seen::new(DedupWindow::new(capacity));
            let mut committed: Vec<u128> = Vec::new();
            for (events, is_committed) in transactions {
                let mut open: Vec<u128> = Vec::new();
                for event in events {
                    let is_known = committed.contains(&event) || open.contains(&event);
                    prop_assert_eq!(seen.insert(threshold_id, Uuid::from_u128(event)), !is_known);
                    if !is_known {
                        open.push(event);
                    }
                }
                if is_committed {
                    seen.commit();
                    committed.extend(open);
                    committed.drain(..committed.len().saturating_sub(capacity));
                } else {
                    seen.abort();
                }
                for event in 0..40 {
                    let is_known = seen.knows(threshold_id, Uuid::from_u128(event));
                    prop_assert_eq!(is_known, committed.contains(&event));
                }
            }
        }
    }
}

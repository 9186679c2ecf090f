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

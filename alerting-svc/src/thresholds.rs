//! Records of `iot-threshold-updates` → the table of rules, and how operators see it.

use crate::metrics::Metrics;
use chassis::admin::Latch;
use rules::Rules;
use std::sync::{Arc, PoisonError, RwLock};

/// Keeps the table.
pub(crate) struct Thresholds {
    rules: Arc<RwLock<Rules>>,
    metrics: Metrics,
    /// Closed while the last change of any threshold cannot be read.
    readable: Latch,
}

impl Thresholds {
    /// Keeps `rules`, which is empty yet.
    pub(crate) fn new(rules: Arc<RwLock<Rules>>, metrics: Metrics, readable: Latch) -> Self {
        readable.open();
        Self { rules, metrics, readable }
    }

    /// Applies one record; no value is a tombstone.
    pub(crate) fn apply(&self, key: &[u8], value: Option<&[u8]>) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.apply(key, value).is_err() {
            self.metrics.unreadable_rules.inc();
            tracing::error!("a change of a threshold cannot be read; the one before stays in force");
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.thresholds.set(count(rules.count()));
        self.metrics.unreadable_thresholds.set(count(rules.unreadable_count()));
        // A rollout of a build that cannot read the table stops at its first instance.
        if rules.unreadable_count() == 0 { self.readable.open() } else { self.readable.close() }
    }
}

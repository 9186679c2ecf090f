//! Which partitions this instance owns, as the group tells it.

use chassis::kafka::{Assignment, Monitor, partitions_of};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance};
use rdkafka::statistics::Statistics;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the group changed.
pub(crate) enum Handover {
    /// These partitions are ours now.
    Assigned(Vec<i32>),
    /// These partitions are ours no more.
    Revoked(Vec<i32>),
}

/// Collects handovers while the consumer is polled, for the loop that polls it.
pub(crate) struct Ownership {
    monitor: Monitor,
    assignment: Assignment,
    handovers: Mutex<Vec<Handover>>,
    changed: Notify,
}

impl Ownership {
    pub(crate) fn new(monitor: Monitor, assignment: Assignment) -> Self {
        Self { monitor, assignment, handovers: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until something has changed, and takes it, in the order in which it did. May be dropped while it waits.
    pub(crate) async fn changes(&self) -> Vec<Handover> {
        loop {
            let changes = self.take();
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    /// Takes what has changed, perhaps nothing.
    pub(crate) fn take(&self) -> Vec<Handover> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handover>> {
        self.handovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, handover: Handover) {
        self.lock().push(handover);
        self.changed.notify_one();
    }
}

impl ClientContext for Ownership {
    fn stats(&self, statistics: Statistics) {
        self.monitor.stats(statistics);
    }
}

impl ConsumerContext for Ownership {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            self.assignment.revoke(partitions_of(list));
            self.push(Handover::Revoked(partitions_of(list)));
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                self.assignment.assign(partitions_of(list));
                self.push(Handover::Assigned(partitions_of(list)));
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

//! A member of a consumer group: what the group gives and takes, told to the loop that polls.

use super::{Assignment, Monitor, partitions_of};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance};
use rdkafka::statistics::Statistics;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// What the group changed.
pub enum Change {
    /// These partitions are ours as well now; perhaps none. The group has another generation.
    Assigned(BTreeSet<i32>, Option<ConsumerGroupMetadata>),
    /// These partitions are ours no more.
    Revoked(BTreeSet<i32>),
}

/// Takes partitions away from an assignment; the second argument says whether the group has done so already.
pub type Revoke = Box<dyn Fn(&BTreeSet<i32>, bool) + Send + Sync>;

/// Keeps an assignment true, and collects its changes while the consumer is polled. The consumer's context.
pub struct Member {
    monitor: Monitor,
    assignment: Assignment,
    changes: Mutex<Vec<Change>>,
    changed: Notify,
    begins_paused: bool,
    revoke: Option<Revoke>,
}

impl Member {
    /// Begins with nothing: what an earlier client had is not ours.
    pub fn new(monitor: Monitor, assignment: Assignment) -> Self {
        assignment.revoke(assignment.partitions());
        Self {
            monitor,
            assignment,
            changes: Mutex::default(),
            changed: Notify::new(),
            begins_paused: false,
            revoke: None,
        }
    }

    /// Pauses what is assigned before the loop can see any record of it; the loop resumes it.
    #[must_use]
    pub fn beginning_paused(self) -> Self {
        Self { begins_paused: true, ..self }
    }

    /// Takes partitions away by `revoke`, which may wait for work under way and changes the assignment
    /// itself. The changes are then not collected: whoever polls looks at the assignment.
    #[must_use]
    pub fn revoking(self, revoke: Revoke) -> Self {
        Self { revoke: Some(revoke), ..self }
    }

    /// Waits until something has changed, and takes it, in the order in which it did. May be dropped while it
    /// waits.
    pub async fn changes(&self) -> Vec<Change> {
        loop {
            let changes = self.take();
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    /// Takes what has changed since the last call, perhaps nothing.
    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock())
    }

    /// Says whether anything has changed since the last call of [`Member::take`].
    pub fn has_changed(&self) -> bool {
        !self.changes.lock().is_empty()
    }

    fn push(&self, change: Change) {
        if self.revoke.is_none() {
            self.changes.lock().push(change);
            self.changed.notify_one();
        }
    }
}

impl ClientContext for Member {
    fn stats(&self, statistics: Statistics) {
        self.monitor.stats(statistics);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let partitions: BTreeSet<i32> = partitions_of(list).into_iter().collect();
            tracing::info!(?partitions, "partitions revoked");
            match &self.revoke {
                Some(revoke) => revoke(&partitions, consumer.assignment_lost()),
                None => self.assignment.revoke(partitions.iter().copied()),
            }
            self.push(Change::Revoked(partitions));
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions: BTreeSet<i32> = partitions_of(list).into_iter().collect();
                tracing::info!(?partitions, "partitions assigned");
                if self.begins_paused
                    && let Err(error) = consumer.pause(list)
                {
                    tracing::debug!(%error, "cannot pause what is assigned");
                }
                self.assignment.assign(partitions.iter().copied());
                // The generation is taken here and not at a commit: a member that was thrown out meanwhile
                // has none, and a commit without generation is not checked by the broker.
                self.push(Change::Assigned(partitions, consumer.group_metadata()));
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

//! Which partitions this instance owns, as the group tells it.

use chassis::kafka::{Assignment, Monitor, partitions_of};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the group changed; in the order in which it did.
pub(crate) enum Handover {
    /// These partitions are ours as well now, and paused; perhaps none. The group has another generation.
    Assigned(BTreeSet<i32>, Option<ConsumerGroupMetadata>),
    /// These partitions are ours no more.
    Revoked(BTreeSet<i32>),
}

/// Collects handovers while the consumer is polled, for the loop that polls it.
pub(crate) struct Ownership {
    monitor: Monitor,
    assignment: Assignment,
    handovers: Mutex<Vec<Handover>>,
}

impl Ownership {
    /// Begins with nothing: what an earlier client had is not ours.
    pub(crate) fn new(monitor: Monitor, assignment: Assignment) -> Self {
        assignment.revoke(assignment.partitions());
        Self { monitor, assignment, handovers: Mutex::default() }
    }

    /// Takes what has changed since the last call.
    pub(crate) fn take(&self) -> Vec<Handover> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handover>> {
        self.handovers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Ownership {
    fn stats(&self, statistics: Statistics) {
        self.monitor.stats(statistics);
    }
}

impl ConsumerContext for Ownership {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // The generation is taken here and not at the commit: a member that was thrown out meanwhile has none, and
            // a commit without generation is not checked by the broker.
            Rebalance::Assign(list) => {
                // Before the loop can see any record of them. Whoever is assigned a partition resumes it, so
                // no pause outlives its reason.
                if let Err(error) = consumer.pause(list) {
                    tracing::debug!(%error, "cannot pause what is assigned");
                }
                self.assignment.assign(partitions(list));
                self.lock().push(Handover::Assigned(partitions(list), consumer.group_metadata()));
            }
            Rebalance::Revoke(list) => {
                self.assignment.revoke(partitions(list));
                self.lock().push(Handover::Revoked(partitions(list)));
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

fn partitions(list: &TopicPartitionList) -> BTreeSet<i32> {
    partitions_of(list).into_iter().collect()
}

//! Which partitions this instance owns, as the group tells it.
//!
//! A commit that fails in the middle of a rebalance is sent again, because an idle partition has no next one.
//!
//! A partition leaves when the batches that hold it are stored and their offsets sent, so that the next owner
//! does not write them again; after a bounded wait it leaves in any case.

use crate::batch::Next;
use chassis::kafka::{Assignment, Monitor, partitions_of};
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use rdkafka::error::KafkaResult;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Longest wait of a rebalance for batches under way: a usual batch takes far less, and the whole group
/// waits.
const LANDING_WAIT_MAX: Duration = Duration::from_secs(3);

/// Follows the group. The consumer's context.
pub(crate) struct Ownership {
    monitor: Monitor,
    flights: Arc<Flights>,
}

impl Ownership {
    pub(crate) fn new(monitor: Monitor, flights: Arc<Flights>) -> Self {
        Self { monitor, flights }
    }
}

impl ClientContext for Ownership {
    fn stats(&self, statistics: Statistics) {
        self.monitor.stats(statistics);
    }
}

impl ConsumerContext for Ownership {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let partitions = partitions_of(list);
            tracing::info!(?partitions, "partitions revoked");
            // What the group has taken away already cannot be committed any more.
            let wait = if consumer.assignment_lost() { Duration::ZERO } else { LANDING_WAIT_MAX };
            let partitions = partitions.into_iter().collect();
            // The callback has to wait where it is; the runtime's other tasks need not.
            match Handle::try_current().map(|handle| handle.runtime_flavor()) {
                Ok(RuntimeFlavor::MultiThread) => block_in_place(|| self.flights.revoke(&partitions, wait)),
                _ => self.flights.revoke(&partitions, wait),
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let failed = offsets.elements().into_iter().filter(|one| result.is_err() || one.error().is_err());
        self.flights.inner.lock().uncommitted.extend(failed.map(|one| one.partition()));
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = partitions_of(list);
                tracing::info!(?partitions, "partitions assigned");
                self.flights.assignment.assign(partitions);
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

/// Holds the partitions of the batches that are being written.
pub(crate) struct Flights {
    pub(crate) assignment: Assignment,
    inner: Mutex<Inner>,
    landed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// One element for each batch that is being written; a partition may be in several, one after the other.
    flying: Vec<(u64, BTreeSet<i32>)>,
    next: u64,
    /// Revoked, and waited for.
    leaving: BTreeSet<i32>,
    /// The last offsets that were sent, committed or not.
    sent: BTreeMap<i32, Next>,
    /// Partitions whose commit has failed.
    uncommitted: BTreeSet<i32>,
}

/// Lands when it is dropped.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    number: u64,
}

impl Flights {
    pub(crate) fn new(assignment: Assignment) -> Self {
        Self { assignment, inner: Mutex::default(), landed: Condvar::new() }
    }

    /// Begins a batch of these partitions; it ends when what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>, partitions: BTreeSet<i32>) -> Flight {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.flying.push((number, partitions));
        Flight { flights: Arc::clone(self), number }
    }

    /// Commits the offsets of partitions that have been ours without a break, or are just leaving; another's
    /// commit must not move back.
    pub(crate) fn commit(
        &self,
        consumer: &StreamConsumer<Ownership>,
        topic: &str,
        ready: &BTreeMap<i32, Next>,
        mode: CommitMode,
    ) {
        let own = self.note_sent(ready);
        if own.is_empty() {
            return;
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in &own {
            // Cannot fail: the offset after a received record is a valid one.
            let _ = offsets.add_partition_offset(topic, *partition, Offset::Offset(next.offset));
        }
        // Not fatal: it is sent again, and without it the batch is delivered again, and its rows are there
        // already.
        if let Err(error) = consumer.commit(&offsets, mode) {
            tracing::warn!(%error, "offsets are not committed now");
            self.inner.lock().uncommitted.extend(own.keys());
        }
    }

    /// Commits again what has failed.
    pub(crate) fn commit_again(&self, consumer: &StreamConsumer<Ownership>, topic: &str) {
        let ready = self.take_uncommitted();
        if !ready.is_empty() {
            self.commit(consumer, topic, &ready, CommitMode::Async);
        }
    }

    fn note_sent(&self, ready: &BTreeMap<i32, Next>) -> BTreeMap<i32, Next> {
        let mut inner = self.inner.lock();
        let may_commit = |partition: &i32, next: &Next| {
            inner.leaving.contains(partition) || self.assignment.holds_since(*partition, next.version)
        };
        let own = ready.iter().filter(|(partition, next)| may_commit(partition, next));
        let own: BTreeMap<i32, Next> = own.map(|(partition, next)| (*partition, *next)).collect();
        inner.sent.extend(&own);
        own
    }

    fn take_uncommitted(&self) -> BTreeMap<i32, Next> {
        let mut inner = self.inner.lock();
        let uncommitted = std::mem::take(&mut inner.uncommitted);
        let last =
            uncommitted.into_iter().filter_map(|partition| Some((partition, *inner.sent.get(&partition)?)));
        last.collect()
    }

    /// Takes partitions away: at once from whoever begins a batch, and after a wait from the batches under
    /// way.
    fn revoke(&self, partitions: &BTreeSet<i32>, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut inner = self.inner.lock();
        inner.leaving.clone_from(partitions);
        self.assignment.revoke(partitions.iter().copied());
        while inner.flying.iter().any(|(_, flying)| !flying.is_disjoint(partitions)) {
            if self.landed.wait_until(&mut inner, deadline).timed_out() {
                tracing::warn!(?partitions, "batches of revoked partitions are still under way");
                break;
            }
        }
        inner.leaving.clear();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.inner.lock().flying.retain(|(number, _)| *number != self.number);
        self.flights.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights(partitions: &[i32]) -> (Arc<Flights>, u64) {
        let flights = Arc::new(Flights::new(Assignment::default()));
        flights.assignment.assign(partitions.iter().copied());
        let version = flights.assignment.version();
        (flights, version)
    }

    fn may_commit(flights: &Flights, partition: i32, version: u64) -> bool {
        !flights
            .note_sent(&[(partition, Next { offset: 7, first_version: version, version })].into())
            .is_empty()
    }

    #[test]
    fn a_partition_leaves_when_its_batches_are_stored() {
        let (flights, version) = flights(&[1, 2, 3]);
        let (first, other) = (flights.begin([1, 2].into()), flights.begin([3].into()));
        let in_thread = Arc::clone(&flights);
        let revoking = std::thread::spawn(move || in_thread.revoke(&[1].into(), LANDING_WAIT_MAX));
        while flights.assignment.partitions().contains(&1) {
            std::thread::yield_now();
        }
        assert!(may_commit(&flights, 1, version), "its batch may still be committed");
        drop(first);
        revoking.join().unwrap();
        assert!(!may_commit(&flights, 1, version) && may_commit(&flights, 2, version));
        drop(other);
    }

    #[test]
    fn a_batch_that_does_not_end_holds_a_partition_only_for_a_bounded_time() {
        let (flights, version) = flights(&[1]);
        let stuck = flights.begin([1].into());
        flights.revoke(&[1].into(), Duration::from_millis(10));
        assert!(!may_commit(&flights, 1, version));
        flights.assignment.assign([1]);
        assert!(!may_commit(&flights, 1, version), "it came back, and the batch is of before");
        drop(stuck);
    }

    #[test]
    fn a_commit_that_failed_is_sent_again_as_the_newest_one() {
        let (flights, version) = flights(&[1, 2]);
        let next = |offset| Next { offset, first_version: version, version };
        flights.note_sent(&[(1, next(5)), (2, next(5))].into());
        flights.inner.lock().uncommitted.insert(1);
        flights.note_sent(&[(1, next(9))].into()); // sent before the failure of the first is known
        assert_eq!(flights.take_uncommitted(), [(1, next(9))].into());
        assert_eq!(flights.take_uncommitted(), [].into());
    }
}

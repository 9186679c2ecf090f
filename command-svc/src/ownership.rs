//! Which partitions this instance owns, as the group tells it.
//!
//! What the group has committed is asked for and compared with what was sent, and what is missing is sent again: librdkafka
//! refuses commits in the middle of a rebalance, tells nobody of an asynchronous one that failed, and an idle partition
//! has no next one.
//!
//! A partition leaves when the batches that hold it are stored and their offsets sent, so that the next owner
//! does not write them again; after a bounded wait it leaves in any case.

use crate::batch::Next;
use anyhow::Context;
use chassis::kafka::{Assignment, Monitor, partitions_of};
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

/// Longest wait of a rebalance for batches under way: a usual batch takes far less, and the whole group
/// waits.
const LANDING_WAIT_MAX: Duration = Duration::from_secs(3);

/// How often what was sent is compared with what the group has; nothing is asked when all is known to be committed.
const COMMITTED_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Timeout after which the group's coordinator counts as unreachable; the next look asks again.
const ANSWER_MAX: Duration = Duration::from_secs(5);

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
    /// Held from the choice of offsets until they are sent, so that none overtakes a newer one.
    sending: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// One element for each batch that is being written; a partition may be in several, one after the other.
    flying: Vec<(u64, BTreeSet<i32>)>,
    next: u64,
    /// Revoked, and waited for.
    leaving: BTreeSet<i32>,
    /// The last offsets that were sent and that the group is not known to have committed.
    sent: BTreeMap<i32, Next>,
}

/// Lands when it is dropped.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    number: u64,
}

impl Flights {
    pub(crate) fn new(assignment: Assignment) -> Self {
        Self { assignment, inner: Mutex::default(), landed: Condvar::new(), sending: Mutex::default() }
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
        let _sending = self.sending.lock();
        let own = self.note_sent(ready);
        send(consumer, topic, &own, mode);
    }

    /// Compares what was sent with what the group has, and sends again what is missing. Runs until it is dropped.
    ///
    /// # Errors
    /// Never by itself; a look that panics is one (stop).
    pub(crate) async fn keep_committed(
        self: Arc<Self>,
        consumer: Arc<StreamConsumer<Ownership>>,
        topic: String,
    ) -> anyhow::Result<()> {
        let mut looks = interval(COMMITTED_LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let sent = self.unconfirmed();
            if sent.is_empty() {
                continue;
            }
            let (client, asked) = (Arc::clone(&consumer), list(&topic, &sent));
            // The call blocks its thread, so it gets one of its own.
            let answer = spawn_blocking(move || client.committed_offsets(asked, ANSWER_MAX)).await;
            match answer.context("ask for committed offsets")? {
                Ok(committed) => {
                    let _sending = self.sending.lock();
                    let missing = self.note_committed(&sent, &offsets_of(&committed));
                    send(&consumer, &topic, &missing, CommitMode::Async);
                }
                Err(error) => tracing::debug!(%error, "no answer about committed offsets; asking again"),
            }
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

    /// Returns what was sent and is not known to be committed, for partitions that are still ours.
    fn unconfirmed(&self) -> BTreeMap<i32, Next> {
        let mut inner = self.inner.lock();
        inner.sent.retain(|partition, next| self.assignment.holds_since(*partition, next.version));
        inner.sent.clone()
    }

    /// Forgets what is committed, and returns what is missing and has not been followed by a newer commit.
    fn note_committed(
        &self,
        sent: &BTreeMap<i32, Next>,
        committed: &BTreeMap<i32, i64>,
    ) -> BTreeMap<i32, Next> {
        let mut inner = self.inner.lock();
        let mut missing = BTreeMap::new();
        for (partition, next) in sent {
            if inner.sent.get(partition) != Some(next) {
                continue;
            }
            if committed.get(partition).is_some_and(|offset| *offset >= next.offset) {
                inner.sent.remove(partition);
            } else if self.assignment.holds_since(*partition, next.version) {
                missing.insert(*partition, *next);
            }
        }
        missing
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

/// Hands the offsets to the client, if there are any.
fn send(consumer: &StreamConsumer<Ownership>, topic: &str, next: &BTreeMap<i32, Next>, mode: CommitMode) {
    if next.is_empty() {
        return;
    }
    // Not fatal: it is sent again, and without it the batch is delivered again, and its rows are there already.
    if let Err(error) = consumer.commit(&list(topic, next), mode) {
        tracing::warn!(%error, "offsets are not committed now");
    }
}

fn list(topic: &str, next: &BTreeMap<i32, Next>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, next) in next {
        // Cannot fail: the offset after a received record is a valid one.
        let _ = list.add_partition_offset(topic, *partition, Offset::Offset(next.offset));
    }
    list
}

fn offsets_of(list: &TopicPartitionList) -> BTreeMap<i32, i64> {
    let offset = |one: &TopicPartitionListElem<'_>| Some((one.partition(), one.offset().to_raw()?));
    list.elements().iter().filter_map(offset).collect()
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
    fn a_commit_that_the_group_does_not_have_is_sent_again_unless_a_newer_one_was() {
        let (flights, version) = flights(&[1, 2, 3]);
        let next = |offset| Next { offset, first_version: version, version };
        let sent = BTreeMap::from([(1, next(5)), (2, next(5)), (3, next(5))]);
        flights.note_sent(&sent);
        assert_eq!(flights.unconfirmed(), sent);
        flights.note_sent(&[(3, next(9))].into()); // while the group was asked
        let committed = [(1, 4), (2, 5), (3, 4)].into();
        assert_eq!(flights.note_committed(&sent, &committed), [(1, next(5))].into());
        assert_eq!(flights.unconfirmed(), [(1, next(5)), (3, next(9))].into(), "until the group has them");
        flights.revoke(&[1].into(), Duration::ZERO);
        assert_eq!(flights.unconfirmed(), [(3, next(9))].into(), "the next owner commits the others");
    }
}

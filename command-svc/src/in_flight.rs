//! Batches under way, and the partitions that leave only when these have ended.
//!
//! A partition leaves when the batches that hold it are stored and their offsets sent, so that the next owner
//! does not write them again; after a bounded wait it leaves in any case.

use chassis::kafka::{Assignment, Commits, Member, Monitor};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Longest wait of a rebalance for batches under way: a usual batch takes far less, and the whole group
/// waits.
const END_WAIT_MAX: Duration = Duration::from_secs(3);

/// Holds the partitions of the batches that are being written.
pub(crate) struct InFlight {
    pub(crate) assignment: Assignment,
    pub(crate) commits: Arc<Commits>,
    inner: Mutex<Inner>,
    ended: Condvar,
}

#[derive(Default)]
struct Inner {
    /// One element for each batch that is being written; a partition may be in several, one after the other.
    batches: Vec<(u64, BTreeSet<i32>)>,
    next: u64,
}

/// Ends when it is dropped.
pub(crate) struct InFlightBatch {
    in_flight: Arc<InFlight>,
    number: u64,
}

impl InFlight {
    pub(crate) fn new(assignment: Assignment) -> Self {
        let commits = Arc::new(Commits::new(assignment.clone()));
        Self { assignment, commits, inner: Mutex::default(), ended: Condvar::new() }
    }

    /// Makes the consumer's context, by which partitions leave when their batches have ended.
    pub(crate) fn member(self: &Arc<Self>, monitor: Monitor) -> Member {
        let in_flight = Arc::clone(self);
        let revoke = move |partitions: &BTreeSet<i32>, is_lost: bool| {
            // Nothing can be committed of partitions that the group has taken away already.
            let wait = if is_lost { Duration::ZERO } else { END_WAIT_MAX };
            // The callback has to wait where it is; the runtime's other tasks need not.
            match Handle::try_current().map(|handle| handle.runtime_flavor()) {
                Ok(RuntimeFlavor::MultiThread) => block_in_place(|| in_flight.revoke(partitions, wait)),
                _ => in_flight.revoke(partitions, wait),
            }
        };
        Member::new(monitor, self.assignment.clone()).revoking(Box::new(revoke))
    }

    /// Begins a batch of these partitions; it ends when what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>, partitions: BTreeSet<i32>) -> InFlightBatch {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.batches.push((number, partitions));
        InFlightBatch { in_flight: Arc::clone(self), number }
    }

    /// Takes partitions away: at once from whoever begins a batch, and after a wait from the batches under
    /// way.
    fn revoke(&self, partitions: &BTreeSet<i32>, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut inner = self.inner.lock();
        self.commits.revoke(partitions);
        while inner.batches.iter().any(|(_, held)| !held.is_disjoint(partitions)) {
            if self.ended.wait_until(&mut inner, deadline).timed_out() {
                tracing::warn!(?partitions, "batches of revoked partitions are still under way");
                break;
            }
        }
        self.commits.let_go();
    }
}

impl Drop for InFlightBatch {
    fn drop(&mut self) {
        self.in_flight.inner.lock().batches.retain(|(number, _)| *number != self.number);
        self.in_flight.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_flight(partitions: &[i32]) -> (Arc<InFlight>, u64) {
        let in_flight = Arc::new(InFlight::new(Assignment::default()));
        in_flight.assignment.assign(partitions.iter().copied());
        let version = in_flight.assignment.version();
        (in_flight, version)
    }

    fn may_commit(in_flight: &InFlight, partition: i32, version: u64) -> bool {
        in_flight.commits.may_commit(partition, version)
    }

    #[test]
    fn a_partition_leaves_when_its_batches_are_stored() {
        let (in_flight, version) = in_flight(&[1, 2, 3]);
        let (first, other) = (in_flight.begin([1, 2].into()), in_flight.begin([3].into()));
        let in_thread = Arc::clone(&in_flight);
        let revoking = std::thread::spawn(move || in_thread.revoke(&[1].into(), END_WAIT_MAX));
        while in_flight.assignment.partitions().contains(&1) {
            std::thread::yield_now();
        }
        assert!(may_commit(&in_flight, 1, version), "its batch may still be committed");
        drop(first);
        revoking.join().unwrap();
        assert!(!may_commit(&in_flight, 1, version) && may_commit(&in_flight, 2, version));
        drop(other);
    }

    #[test]
    fn a_batch_that_does_not_end_holds_a_partition_only_for_a_bounded_time() {
        let (in_flight, version) = in_flight(&[1]);
        let stuck = in_flight.begin([1].into());
        in_flight.revoke(&[1].into(), Duration::from_millis(10));
        assert!(!may_commit(&in_flight, 1, version));
        in_flight.assignment.assign([1]);
        assert!(!may_commit(&in_flight, 1, version), "it came back, and the batch is of before");
        drop(stuck);
    }
}

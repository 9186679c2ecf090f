//! What one connection has sent and not yet had acknowledged.
//!
//! The connection opens a [`AckHandle`] per record, in PUBLISH order; whoever makes the record durable
//! completes it, in any order; the connection takes acknowledgements from the front only, so they leave in
//! PUBLISH order (MQTT-4.6.0-2). A handle that is dropped counts as failed: nothing is ever acknowledged by
//! accident.

use crate::durable::budget::Permit;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use tokio::time::{Duration, Instant};

/// What a message in flight costs beside its own bytes: the envelope of its event, its headers, and what the
/// producer and the window keep about it.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 1024;

/// A window that was once this full gives its memory back when it is empty again.
const KEPT_ENTRIES_MAX: usize = 16;

/// What the client is owed for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    /// Nothing: QoS 0 is best effort.
    Nothing,
    /// Not to be acknowledged without it: a message of several readings is acknowledged with its last.
    Part,
    /// A PUBACK with this packet id.
    Ack(u16),
}

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is durable.
    Stored,
    /// It was never accepted: the topic is another device's.
    NotAuthorized,
    /// It is not durable; the client must send it again.
    Failed,
}

/// The messages of one connection, shared with those who complete them.
#[derive(Default)]
pub(crate) struct InFlight {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Number of the entry at the front.
    first: u64,
    bytes: usize,
    /// The shares of the budget that all entries have.
    permit: Option<Permit>,
}

struct Entry {
    kind: AckKind,
    outcome: Option<Outcome>,
    bytes: usize,
    /// How much of the permit is this entry's; given back with it.
    permit_bytes: usize,
    opened_at: Instant,
}

/// A record whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    /// What the client is owed.
    pub(crate) kind: AckKind,
    /// How the record ended.
    pub(crate) outcome: Outcome,
    /// How long it was in flight.
    pub(crate) took: Duration,
}

impl InFlight {
    /// Has `waker` woken whenever there is something new to take or to ask about.
    pub(crate) fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Opens a handle behind all others.
    pub(crate) fn open(self: &Arc<Self>, kind: AckKind, bytes: usize, permit: Permit) -> AckHandle {
        let number = self.state.lock().push(kind, None, bytes, Some(permit));
        AckHandle { in_flight: Some(self.clone()), number }
    }

    /// Puts a message that needs no record behind all others, to be acknowledged or refused in its turn.
    pub(crate) fn ack_without_record(&self, packet_id: u16, outcome: Outcome) {
        self.state.lock().push(AckKind::Ack(packet_id), Some(outcome), 0, None);
    }

    /// Takes the handle opened last back, with its share of the budget.
    pub(crate) fn withdraw(&self, mut handle: AckHandle) -> Option<Permit> {
        handle.in_flight = None;
        let mut state = self.state.lock();
        debug_assert_eq!(
            handle.number + 1,
            state.first + state.entries.len() as u64,
            "only the last is withdrawn"
        );
        let entry = state.entries.pop_back()?;
        state.forget(&entry);
        state.give_back(entry.permit_bytes)
    }

    /// Passes what is done at the front to `take`, until something is not.
    pub(crate) fn take_completed(&self, mut take: impl FnMut(Completed)) {
        let mut state = self.state.lock();
        let (mut now, mut permit_bytes) = (None, 0);
        while let Some(outcome) = state.entries.front().and_then(|entry| entry.outcome) {
            let Some(entry) = state.entries.pop_front() else { break };
            state.first += 1;
            state.forget(&entry);
            permit_bytes += entry.permit_bytes;
            let now = *now.get_or_insert_with(Instant::now);
            take(Completed { kind: entry.kind, outcome, took: now.duration_since(entry.opened_at) });
        }
        if state.entries.is_empty() && state.entries.capacity() > KEPT_ENTRIES_MAX {
            state.entries = VecDeque::new();
        }
        // Once for all of them: the budget is everybody's, and giving back wakes who waits.
        if permit_bytes > 0 {
            drop(state.give_back(permit_bytes));
        }
    }

    /// Tells how full it is.
    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        Load { records: state.entries.len(), bytes: state.bytes }
    }

    /// Wakes the connection: there is something new for it elsewhere.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    fn complete(&self, number: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        let index = usize::try_from(number.wrapping_sub(state.first)).unwrap_or(usize::MAX);
        if let Some(entry) = state.entries.get_mut(index) {
            entry.outcome = Some(outcome);
        }
        let has_done = state.entries.front().is_some_and(|entry| entry.outcome.is_some());
        drop(state);
        if has_done {
            self.waker.wake();
        }
    }
}

/// How full a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Records in flight.
    pub(crate) records: usize,
    /// Their bytes, overhead included.
    pub(crate) bytes: usize,
}

impl State {
    fn push(&mut self, kind: AckKind, outcome: Option<Outcome>, bytes: usize, permit: Option<Permit>) -> u64 {
        self.bytes += bytes;
        let permit_bytes = permit.as_ref().map_or(0, Permit::bytes);
        match (&mut self.permit, permit) {
            (Some(all), Some(permit)) => all.merge(permit),
            (all @ None, permit) => *all = permit,
            (Some(_), None) => {}
        }
        self.entries.push_back(Entry { kind, outcome, bytes, permit_bytes, opened_at: Instant::now() });
        self.first + self.entries.len() as u64 - 1
    }

    /// Takes an entry's share out of the permit.
    fn give_back(&mut self, permit_bytes: usize) -> Option<Permit> {
        self.permit.as_mut()?.split(permit_bytes)
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.bytes;
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

/// The right to acknowledge one record; travels with it until it is durable.
#[derive(Debug)]
pub(crate) struct AckHandle {
    in_flight: Option<Arc<InFlight>>,
    number: u64,
}

impl AckHandle {
    /// Says how the record ended.
    pub(crate) fn complete(mut self, outcome: Outcome) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.complete(self.number, outcome);
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.complete(self.number, Outcome::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::budget::{Budget, DeviceBudget};
    use proptest::prelude::*;

    fn open(in_flight: &Arc<InFlight>, budget: &DeviceBudget, packet_id: u16) -> AckHandle {
        in_flight.open(AckKind::Ack(packet_id), 1, budget.try_take(1).unwrap())
    }

    fn budget(bytes: usize) -> DeviceBudget {
        Budget::new(bytes, bytes).of_device()
    }

    fn completed(in_flight: &InFlight) -> Vec<(u16, Outcome)> {
        let mut completed = Vec::new();
        in_flight.take_completed(|one| match one.kind {
            AckKind::Ack(packet_id) => completed.push((packet_id, one.outcome)),
            AckKind::Nothing | AckKind::Part => {}
        });
        completed
    }

    #[test]
    fn dropped_slot_is_never_acknowledged() {
        let (in_flight, budget) = (Arc::new(InFlight::default()), budget(1));
        drop(open(&in_flight, &budget, 7));
        assert_eq!(completed(&in_flight), [(7, Outcome::Failed)]);
    }

    #[test]
    fn refusal_waits_for_its_turn() {
        let (in_flight, budget) = (Arc::new(InFlight::default()), budget(1));
        let handle = open(&in_flight, &budget, 1);
        in_flight.ack_without_record(2, Outcome::NotAuthorized);
        assert!(completed(&in_flight).is_empty());
        handle.complete(Outcome::Stored);
        assert_eq!(completed(&in_flight), [(1, Outcome::Stored), (2, Outcome::NotAuthorized)]);
    }

    #[test]
    fn withdrawn_slot_leaves_no_trace() {
        let (in_flight, budget) = (Arc::new(InFlight::default()), budget(2));
        let first = open(&in_flight, &budget, 1);
        let second = open(&in_flight, &budget, 2);
        assert!(in_flight.withdraw(second).is_some());
        assert_eq!(in_flight.load(), Load { records: 1, bytes: 1 });
        let third = open(&in_flight, &budget, 3);
        third.complete(Outcome::Stored);
        first.complete(Outcome::Stored);
        assert_eq!(completed(&in_flight), [(1, Outcome::Stored), (3, Outcome::Stored)]);
        assert!(budget.is_unused());
    }

    proptest! {
        #[test]
        fn acknowledgements_leave_in_publish_order_whatever_order_they_come_in(
            order in Just((1..=40u16).collect::<Vec<_>>()).prop_shuffle(),
            takes in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let (in_flight, budget) = (Arc::new(InFlight::default()), budget(40));
            let mut handles: Vec<_> = (1..=40).map(|id| Some(open(&in_flight, &budget, id))).collect();
            let mut taken = Vec::new();
            for (id, take) in order.iter().zip(takes) {
                handles[usize::from(*id) - 1].take().unwrap().complete(Outcome::Stored);
                if take {
                    taken.extend(completed(&in_flight));
                }
            }
            taken.extend(completed(&in_flight));
            prop_assert_eq!(taken, (1..=40).map(|id| (id, Outcome::Stored)).collect::<Vec<_>>());
            prop_assert_eq!(in_flight.load(), Load { records: 0, bytes: 0 });
            prop_assert!(budget.is_unused());
        }
    }
}

//! What one connection has sent and not yet had acknowledged.
//!
//! The connection opens a [`Slot`] per record, in PUBLISH order; whoever makes the record durable completes it, in any
//! order; the connection takes acknowledgements from the front only, so they leave in PUBLISH order (MQTT-4.6.0-2).
//! A slot that is dropped counts as failed: nothing is ever acknowledged by accident.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::device::registry::Denied;
use crate::durable::budget::Permit;

/// What a message in flight costs beside its own bytes: the envelope of its event, its headers, and what the producer and
/// the window keep about it.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 1024;

/// A window that was once this full gives its memory back when it is empty again.
const KEPT_ENTRIES_MAX: usize = 16;

/// What the client is owed for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
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

/// Why others end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The same device connected again with the same client id.
    TakenOver,
    /// The device may not publish any more.
    Denied(Denied),
    /// The gateway stops and does not wait any longer.
    ShuttingDown,
}

/// The messages of one connection, shared with those who complete them.
#[derive(Default)]
pub(crate) struct Window {
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
    closing: Option<Closing>,
    is_draining: bool,
}

struct Entry {
    promise: Promise,
    outcome: Option<Outcome>,
    bytes: usize,
    /// How much of the permit is this entry's; given back with it.
    share: usize,
    opened_at: Instant,
}

/// A record whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// What the client is owed.
    pub(crate) promise: Promise,
    /// How the record ended.
    pub(crate) outcome: Outcome,
    /// How long it was in flight.
    pub(crate) took: Duration,
}

impl Window {
    /// Has `waker` woken whenever there is something new to take or to obey.
    pub(crate) fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Opens a slot behind all others.
    pub(crate) fn open(self: &Arc<Self>, promise: Promise, bytes: usize, permit: Permit) -> Slot {
        let number = self.state.lock().push(promise, None, bytes, Some(permit));
        Slot { window: Some(self.clone()), number }
    }

    /// Puts a message that needs no record behind all others, to be acknowledged or refused in its turn.
    pub(crate) fn settle(&self, packet_id: u16, outcome: Outcome) {
        self.state.lock().push(Promise::Ack(packet_id), Some(outcome), 0, None);
    }

    /// Takes the slot opened last back, with its share of the budget.
    pub(crate) fn withdraw(&self, mut slot: Slot) -> Option<Permit> {
        slot.window = None;
        let mut state = self.state.lock();
        debug_assert_eq!(
            slot.number + 1,
            state.first + state.entries.len() as u64,
            "only the last is withdrawn"
        );
        let entry = state.entries.pop_back()?;
        state.forget(&entry);
        state.give_back(entry.share)
    }

    /// Passes what is done at the front to `take`, until something is not.
    pub(crate) fn take_done(&self, mut take: impl FnMut(Done)) {
        let mut state = self.state.lock();
        let (mut now, mut share) = (None, 0);
        while let Some(outcome) = state.entries.front().and_then(|entry| entry.outcome) {
            let Some(entry) = state.entries.pop_front() else { break };
            state.first += 1;
            state.forget(&entry);
            share += entry.share;
            let now = *now.get_or_insert_with(Instant::now);
            take(Done { promise: entry.promise, outcome, took: now.duration_since(entry.opened_at) });
        }
        if state.entries.is_empty() && state.entries.capacity() > KEPT_ENTRIES_MAX {
            state.entries = VecDeque::new();
        }
        // Once for all of them: the budget is everybody's, and giving back wakes who waits.
        if share > 0 {
            drop(state.give_back(share));
        }
    }

    /// How full it is.
    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        Load { records: state.entries.len(), bytes: state.bytes }
    }

    /// Asks the connection to end. The first reason stands.
    pub(crate) fn close(&self, closing: Closing) {
        self.state.lock().closing.get_or_insert(closing);
        self.waker.wake();
    }

    /// Asks the connection to read nothing more and to end when nothing is in flight.
    pub(crate) fn drain(&self) {
        self.state.lock().is_draining = true;
        self.waker.wake();
    }

    /// What the connection has been asked.
    pub(crate) fn asked(&self) -> (Option<Closing>, bool) {
        let state = self.state.lock();
        (state.closing, state.is_draining)
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
    fn push(
        &mut self,
        promise: Promise,
        outcome: Option<Outcome>,
        bytes: usize,
        permit: Option<Permit>,
    ) -> u64 {
        self.bytes += bytes;
        let share = permit.as_ref().map_or(0, Permit::bytes);
        match (&mut self.permit, permit) {
            (Some(all), Some(permit)) => all.merge(permit),
            (all @ None, permit) => *all = permit,
            (Some(_), None) => {}
        }
        self.entries.push_back(Entry { promise, outcome, bytes, share, opened_at: Instant::now() });
        self.first + self.entries.len() as u64 - 1
    }

    /// Takes an entry's share out of the permit.
    fn give_back(&mut self, share: usize) -> Option<Permit> {
        self.permit.as_mut()?.split(share)
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.bytes;
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

/// The promise of one record; travels with it until it is durable.
#[derive(Debug)]
pub(crate) struct Slot {
    window: Option<Arc<Window>>,
    number: u64,
}

impl Slot {
    /// Says how the record ended.
    pub(crate) fn complete(mut self, outcome: Outcome) {
        if let Some(window) = self.window.take() {
            window.complete(self.number, outcome);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            window.complete(self.number, Outcome::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::budget::{Budget, DeviceBudget};
    use proptest::prelude::*;

    fn open(window: &Arc<Window>, budget: &DeviceBudget, packet_id: u16) -> Slot {
        window.open(Promise::Ack(packet_id), 1, budget.try_take(1).unwrap())
    }

    fn budget(bytes: usize) -> DeviceBudget {
        Budget::new(bytes, bytes).of_device()
    }

    fn done(window: &Window) -> Vec<(u16, Outcome)> {
        let mut done = Vec::new();
        window.take_done(|one| match one.promise {
            Promise::Ack(packet_id) => done.push((packet_id, one.outcome)),
            Promise::Nothing | Promise::Part => {}
        });
        done
    }

    #[test]
    fn dropped_slot_is_never_acknowledged() {
        let (window, budget) = (Arc::new(Window::default()), budget(1));
        drop(open(&window, &budget, 7));
        assert_eq!(done(&window), [(7, Outcome::Failed)]);
    }

    #[test]
    fn refusal_waits_for_its_turn() {
        let (window, budget) = (Arc::new(Window::default()), budget(1));
        let slot = open(&window, &budget, 1);
        window.settle(2, Outcome::NotAuthorized);
        assert!(done(&window).is_empty());
        slot.complete(Outcome::Stored);
        assert_eq!(done(&window), [(1, Outcome::Stored), (2, Outcome::NotAuthorized)]);
    }

    #[test]
    fn withdrawn_slot_leaves_no_trace() {
        let (window, budget) = (Arc::new(Window::default()), budget(2));
        let first = open(&window, &budget, 1);
        let second = open(&window, &budget, 2);
        assert!(window.withdraw(second).is_some());
        assert_eq!(window.load(), Load { records: 1, bytes: 1 });
        let third = open(&window, &budget, 3);
        third.complete(Outcome::Stored);
        first.complete(Outcome::Stored);
        assert_eq!(done(&window), [(1, Outcome::Stored), (3, Outcome::Stored)]);
        assert!(budget.is_unused());
    }

    #[test]
    fn first_reason_to_close_stands() {
        let window = Window::default();
        window.close(Closing::Denied(Denied::Suspended));
        window.close(Closing::ShuttingDown);
        assert_eq!(window.asked(), (Some(Closing::Denied(Denied::Suspended)), false));
    }

    proptest! {
        #[test]
        fn acknowledgements_leave_in_publish_order_whatever_order_they_come_in(
            order in Just((1..=40u16).collect::<Vec<_>>()).prop_shuffle(),
            takes in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let (window, budget) = (Arc::new(Window::default()), budget(40));
            let mut slots: Vec<_> = (1..=40).map(|id| Some(open(&window, &budget, id))).collect();
            let mut taken = Vec::new();
            for (id, take) in order.iter().zip(takes) {
                slots[usize::from(*id) - 1].take().unwrap().complete(Outcome::Stored);
                if take {
                    taken.extend(done(&window));
                }
            }
            taken.extend(done(&window));
            prop_assert_eq!(taken, (1..=40).map(|id| (id, Outcome::Stored)).collect::<Vec<_>>());
            prop_assert_eq!(window.load(), Load { records: 0, bytes: 0 });
            prop_assert!(budget.is_unused());
        }
    }
}

//! Which way a record goes: to Kafka directly, or to the spool. Knows no Kafka.
//!
//! Directly while Kafka acknowledges, with a copy kept here until it does. When the oldest copy is older than the patience,
//! or a report says that Kafka did not take one, everything goes to the spool: first all copies, in the order of producing,
//! then what is new. When Kafka takes spooled records again, a sensor goes directly once none of its records is spooled; when
//! the last of the spool are under way, it waits for that.
//!
//! Per sensor, records become readable in their order, but for repetitions of one that was there before: what Kafka got of the
//! copies is the beginning of each partition's queue (the rest is purged), and the spool forwards all of them in order.
//!
//! Locks: the table, then the spool's or a window's; never the other way round.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::durable::publish::NotTaken;
use crate::durable::spool::{Done, Error, Record, Seq, Spool};
use crate::durable::window::{Outcome, Slot};
use crate::metrics::Metrics;

/// Number of a record that is produced directly, in the order of producing.
pub(crate) type Ticket = u64;

/// Decides and remembers.
pub(crate) struct Delivery {
    spool: Spool,
    patience: Duration,
    metrics: Metrics,
    table: Mutex<Table>,
    /// Told when the way changes to the spool.
    switched: Notify,
    /// Copies that the producer still has, whatever became of their records.
    unreported: AtomicU64,
    /// Told when the producer has none.
    settled: Notify,
}

/// Copies of what Kafka has not acknowledged. Bounded by the budget of all connections, since each has an open slot.
#[derive(Default)]
struct Table {
    /// While it is set, flights are those that the spool has not taken yet: new records wait until there are none.
    is_spooling: bool,
    /// How often the way changed to the spool.
    switches: u64,
    /// Since when the end of the spool is under way to Kafka, while sensors that it holds wait for that.
    handing_over_since: Option<Instant>,
    /// Ticket of the front.
    first: Ticket,
    flights: VecDeque<Option<Flight>>,
}

struct Flight {
    record: Record,
    slot: Slot,
    since: Instant,
}

impl Table {
    fn get(&mut self, ticket: Ticket) -> Option<&mut Option<Flight>> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.flights.get_mut(index)
    }

    fn take(&mut self, ticket: Ticket) -> Option<Flight> {
        let flight = self.get(ticket)?.take();
        while let Some(None) = self.flights.front() {
            self.flights.pop_front();
            self.first += 1;
        }
        flight
    }

    fn front(&self) -> Option<&Flight> {
        self.flights.front().and_then(Option::as_ref)
    }
}

impl Delivery {
    pub(crate) fn new(spool: Spool, patience: Duration, metrics: Metrics) -> Self {
        Self {
            spool,
            patience,
            metrics,
            table: Mutex::default(),
            switched: Notify::new(),
            unreported: AtomicU64::new(0),
            settled: Notify::new(),
        }
    }

    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Tells whether a record of a sensor has a way now; `bytes` is what the spool would count of it. Asked before the record is
    /// made, so that who waits for room copies nothing meanwhile. Another may take the room before [`Delivery::take`].
    pub(crate) fn has_room(&self, sensor_id: &str, bytes: u64) -> bool {
        let table = self.table.lock();
        if table.is_spooling {
            table.flights.is_empty() && self.spool.has_room(bytes)
        } else if self.spool.holds(sensor_id) {
            table.handing_over_since.is_none() && self.spool.has_room(bytes)
        } else {
            true
        }
    }

    /// Sends a record its way; `produce` hands it to Kafka's producer.
    ///
    /// # Errors
    /// [`NotTaken`] says what to do; `on_error` says it of what `produce` refuses.
    pub(crate) fn take<E>(
        &self,
        record: Record,
        slot: Slot,
        produce: impl FnOnce(Ticket, &Record) -> Result<(), E>,
        on_error: impl FnOnce(E, Slot) -> NotTaken,
    ) -> Result<(), NotTaken> {
        let mut table = self.table.lock();
        if table.is_spooling && !table.flights.is_empty() {
            return Err(NotTaken::Full(slot));
        }
        if table.is_spooling || self.spool.holds(&record.sensor_id) {
            if !table.is_spooling && table.handing_over_since.is_some() {
                return Err(NotTaken::Full(slot));
            }
            return self.submit(record, slot).map_err(|refused| match refused.why {
                Error::TooLarge => NotTaken::Broken,
                Error::Full | Error::Busy | Error::Failing(_) => NotTaken::Full(refused.slot),
            });
        }
        // Before the report can come.
        self.unreported.fetch_add(1, Ordering::AcqRel);
        let ticket = table.first + table.flights.len() as u64;
        match produce(ticket, &record) {
            Ok(()) => {
                // The report, should it be there already, waits for the table.
                table.flights.push_back(Some(Flight { record, slot, since: Instant::now() }));
                Ok(())
            }
            Err(error) => {
                drop(table);
                self.forget_copy();
                Err(on_error(error, slot))
            }
        }
    }

    /// Kafka has the record. Of one that is spooled meanwhile, this is no news: it is forwarded with the same event id.
    pub(crate) fn acknowledged(&self, ticket: Ticket) {
        let flight = self.table.lock().take(ticket);
        if let Some(flight) = flight {
            flight.slot.complete(Outcome::Stored);
        }
        self.forget_copy();
    }

    /// Kafka has not taken the record, and may later.
    pub(crate) fn failed(&self, ticket: Ticket) {
        let mut table = self.table.lock();
        if table.get(ticket).is_some_and(|flight| flight.is_some()) {
            self.switch(&mut table);
        }
        drop(table);
        self.forget_copy();
    }

    /// Kafka will never take the record: its client must hear of it.
    pub(crate) fn refused(&self, ticket: Ticket) {
        let flight = self.table.lock().take(ticket);
        if let Some(flight) = flight {
            flight.slot.complete(Outcome::Failed);
        }
        self.forget_copy();
    }

    fn forget_copy(&self) {
        if self.unreported.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_waiters();
        }
    }

    /// Looks whether the patience is over, and offers the spool again what it had no room for.
    pub(crate) fn look(&self) {
        let mut table = self.table.lock();
        if table.is_spooling {
            self.spool_flights(&mut table);
        } else if table.front().is_some_and(|oldest| oldest.since.elapsed() >= self.patience) {
            self.switch(&mut table);
        }
        if table.handing_over_since.is_some_and(|since| since.elapsed() >= self.patience) {
            table.handing_over_since = None;
        }
    }

    /// Has no more patience.
    pub(crate) fn give_up(&self) {
        let mut table = self.table.lock();
        if !table.flights.is_empty() {
            self.switch(&mut table);
        }
    }

    fn switch(&self, table: &mut Table) {
        if !table.is_spooling {
            table.is_spooling = true;
            table.handing_over_since = None;
            table.switches += 1;
            self.metrics.spool.is_active.set(1);
            tracing::warn!(
                records = table.flights.len(),
                "Kafka does not acknowledge: records go to the spool"
            );
            self.switched.notify_one();
        }
        self.spool_flights(table);
    }

    /// Gives the spool the copies, in order, as far as it takes them.
    fn spool_flights(&self, table: &mut Table) {
        while let Some(front) = table.flights.pop_front() {
            table.first += 1;
            let Some(Flight { record, slot, since }) = front else { continue };
            let Err(refused) = self.submit(record, slot) else { continue };
            if let Error::Full | Error::Busy = refused.why {
                let Refused { record, slot, .. } = refused;
                table.first -= 1;
                table.flights.push_front(Some(Flight { record, slot, since }));
                return;
            }
            // Neither Kafka nor the disk: the slot fails, and its client publishes again, here or elsewhere.
        }
        if table.flights.capacity() > KEPT_FLIGHTS_MAX {
            table.flights = VecDeque::new();
        }
    }

    fn submit(&self, record: Record, slot: Slot) -> Result<(), Refused> {
        let held = Arc::new(Mutex::new(Some(slot)));
        let (given, appended) = (held.clone(), self.metrics.spool.appended.clone());
        let done: Done = Box::new(move |outcome| {
            // Otherwise the slot fails by being dropped.
            if let (Some(slot), Ok(_)) = (given.lock().take(), outcome) {
                appended.inc();
                slot.complete(Outcome::Stored);
            }
        });
        let Err(refused) = self.spool.submit(vec![record], done) else { return Ok(()) };
        let (mut records, slot) = (refused.records, held.lock().take());
        match (records.pop(), slot) {
            (Some(record), Some(slot)) => Err(Refused { why: refused.why, record, slot }),
            _ => unreachable!("a refused append comes back, and its slot was not taken"),
        }
    }

    /// Resolves when the way changes to the spool, or has since this was last awaited.
    pub(crate) async fn switched(&self) {
        self.switched.notified().await;
    }

    /// How often the way changed to the spool.
    pub(crate) fn switches(&self) -> u64 {
        self.table.lock().switches
    }

    /// Reads spooled records to forward them. None when the way has changed to the spool since `switches`:
    /// what is read now may be what the producer still has copies of, and these must be purged first.
    ///
    /// # Errors
    /// As [`Spool::read`].
    pub(crate) async fn read(
        &self,
        switches: u64,
        from: Seq,
        records_max: usize,
    ) -> Result<Option<Vec<(Seq, Record)>>, Error> {
        let batch = self.spool.read(from, records_max).await?;
        Ok((self.switches() == switches).then_some(batch))
    }

    /// Resolves when the producer has no copy any more.
    pub(crate) async fn settled(&self) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.unreported.load(Ordering::Acquire) == 0 {
                return;
            }
            settled.await;
        }
    }

    /// Kafka takes records again: those of sensors that have none in the spool go directly, unless the way has changed since
    /// `switches`, or copies still wait for the spool.
    pub(crate) fn resume(&self, switches: u64) {
        let mut table = self.table.lock();
        if table.is_spooling && table.switches == switches && table.flights.is_empty() {
            table.is_spooling = false;
            self.metrics.spool.is_active.set(0);
            tracing::info!("records go to Kafka directly again, behind those that are spooled");
        }
    }

    /// The end of the spool is under way to Kafka: who is held by it waits for that, for as long as the patience lasts. A sensor
    /// that publishes all the time would be held for ever otherwise.
    pub(crate) fn hand_over(&self) {
        let mut table = self.table.lock();
        if !table.is_spooling {
            table.handing_over_since.get_or_insert_with(Instant::now);
        }
    }

    /// Tells whether everything goes to the spool.
    pub(crate) fn is_spooling(&self) -> bool {
        self.table.lock().is_spooling
    }
}

/// A table that was once this long gives its memory back when it is empty again.
const KEPT_FLIGHTS_MAX: usize = 4096;

/// What the spool did not take, given back.
struct Refused {
    why: Error,
    record: Record,
    slot: Slot,
}

#[cfg(test)]
mod tests;

//! Which way a record goes: to Kafka directly, or to the spool. Knows no Kafka.
//!
//! Directly while Kafka acknowledges, with a copy kept here until it does. When the oldest copy is older than
//! the patience, or a report says that Kafka did not take one, everything goes to the spool: first all
//! copies, in the order of producing, then what is new. When Kafka takes spooled records again, a sensor goes
//! directly once none of its records is spooled; when the last of the spool are under way, it waits for that.
//!
//! Per sensor, records become readable in their order, but for repetitions of one that was there before: what
//! Kafka got of the copies is the beginning of each partition's queue (the rest is purged), and the spool
//! forwards all of them in order.
//!
//! Locks: the table, then the spool's or a window's; never the other way round.

use crate::durable::in_flight::{AckHandle, Outcome};
use crate::durable::record::NotTaken;
use crate::durable::spool::{Done, Error, Record, Seq, Spool};
use crate::metrics::Metrics;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Number of a record that is produced directly, in the order of producing.
pub(crate) type DirectSeq = u64;

/// Decides and remembers.
pub(crate) struct Failover {
    spool: Spool,
    patience: Duration,
    metrics: Metrics,
    table: Mutex<Table>,
    /// Told when the way changes to the spool.
    switched: Notify,
    /// Copies that the producer still has, whatever became of their records.
    unreported: AtomicU64,
    /// Told when the producer has none.
    all_reported: Notify,
}

/// Copies of what Kafka has not acknowledged. Bounded by the budget of all connections, since each has an
/// open handle.
#[derive(Default)]
struct Table {
    /// While it is set, unacknowledged records are those that the spool has not taken yet: new records wait
    /// until there are none.
    is_spooling: bool,
    /// Counts how often the way changed to the spool.
    switches: u64,
    /// Since when the end of the spool is under way to Kafka, while sensors that it holds wait for that.
    returning_since: Option<Instant>,
    /// Number of the front.
    first: DirectSeq,
    unacked: VecDeque<Option<Unacked>>,
}

struct Unacked {
    record: Record,
    handle: AckHandle,
    since: Instant,
}

impl Table {
    fn get(&mut self, seq: DirectSeq) -> Option<&mut Option<Unacked>> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.unacked.get_mut(index)
    }

    fn take(&mut self, seq: DirectSeq) -> Option<Unacked> {
        let kept = self.get(seq)?.take();
        while let Some(None) = self.unacked.front() {
            self.unacked.pop_front();
            self.first += 1;
        }
        kept
    }

    fn front(&self) -> Option<&Unacked> {
        self.unacked.front().and_then(Option::as_ref)
    }
}

impl Failover {
    pub(crate) fn new(spool: Spool, patience: Duration, metrics: Metrics) -> Self {
        Self {
            spool,
            patience,
            metrics,
            table: Mutex::default(),
            switched: Notify::new(),
            unreported: AtomicU64::new(0),
            all_reported: Notify::new(),
        }
    }

    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Tells whether a record of a sensor has a way now; `bytes` is what the spool would count of it. Asked
    /// before the record is made, so that who waits for room copies nothing meanwhile. Another may take the
    /// room before [`Failover::produce`].
    pub(crate) fn has_room(&self, sensor_id: &str, bytes: u64) -> bool {
        let table = self.table.lock();
        if table.is_spooling {
            table.unacked.is_empty() && self.spool.has_room(bytes)
        } else if self.spool.holds(sensor_id) {
            table.returning_since.is_none() && self.spool.has_room(bytes)
        } else {
            true
        }
    }

    /// Sends a record its way; `produce` hands it to Kafka's producer.
    ///
    /// # Errors
    /// [`NotTaken`] says what to do; `on_error` says it of what `produce` refuses.
    pub(crate) fn produce<E>(
        &self,
        record: Record,
        handle: AckHandle,
        produce: impl FnOnce(DirectSeq, &Record) -> Result<(), E>,
        on_error: impl FnOnce(E, AckHandle) -> NotTaken,
    ) -> Result<(), NotTaken> {
        let mut table = self.table.lock();
        if table.is_spooling && !table.unacked.is_empty() {
            return Err(NotTaken::Full(handle));
        }
        if table.is_spooling || self.spool.holds(&record.sensor_id) {
            if !table.is_spooling && table.returning_since.is_some() {
                return Err(NotTaken::Full(handle));
            }
            return self.submit(record, handle).map_err(|refused| match refused.why {
                Error::TooLarge => NotTaken::Broken,
                Error::Full | Error::Busy | Error::Failing(_) => NotTaken::Full(refused.handle),
            });
        }
        // Before the report can come.
        self.unreported.fetch_add(1, Ordering::AcqRel);
        let seq = table.first + table.unacked.len() as u64;
        match produce(seq, &record) {
            Ok(()) => {
                // The report, should it be there already, waits for the table.
                table.unacked.push_back(Some(Unacked { record, handle, since: Instant::now() }));
                Ok(())
            }
            Err(error) => {
                drop(table);
                self.forget_copy();
                Err(on_error(error, handle))
            }
        }
    }

    /// Notes that Kafka has the record. One that is spooled meanwhile is forwarded all the same, with the
    /// same event id.
    pub(crate) fn acknowledged(&self, seq: DirectSeq) {
        let kept = self.table.lock().take(seq);
        if let Some(kept) = kept {
            kept.handle.complete(Outcome::Stored);
        }
        self.forget_copy();
    }

    /// Notes that Kafka has not taken the record, and may later.
    pub(crate) fn failed(&self, seq: DirectSeq) {
        let mut table = self.table.lock();
        if table.get(seq).is_some_and(|kept| kept.is_some()) {
            self.switch(&mut table);
        }
        drop(table);
        self.forget_copy();
    }

    /// Notes that Kafka will never take the record: its client must hear of it.
    pub(crate) fn refused(&self, seq: DirectSeq) {
        let kept = self.table.lock().take(seq);
        if let Some(kept) = kept {
            kept.handle.complete(Outcome::Failed);
        }
        self.forget_copy();
    }

    fn forget_copy(&self) {
        if self.unreported.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_reported.notify_waiters();
        }
    }

    /// Looks whether the patience is over, and offers the spool again what it had no room for.
    pub(crate) fn check_deadline(&self) {
        let mut table = self.table.lock();
        if table.is_spooling {
            self.spool_unacked(&mut table);
        } else if table.front().is_some_and(|oldest| oldest.since.elapsed() >= self.patience) {
            self.switch(&mut table);
        }
        if table.returning_since.is_some_and(|since| since.elapsed() >= self.patience) {
            table.returning_since = None;
        }
    }

    /// Has no more patience.
    pub(crate) fn give_up(&self) {
        let mut table = self.table.lock();
        if !table.unacked.is_empty() {
            self.switch(&mut table);
        }
    }

    fn switch(&self, table: &mut Table) {
        if !table.is_spooling {
            table.is_spooling = true;
            table.returning_since = None;
            table.switches += 1;
            self.metrics.spool.is_active.set(1);
            tracing::warn!(
                records = table.unacked.len(),
                "Kafka does not acknowledge: records go to the spool"
            );
            self.switched.notify_one();
        }
        self.spool_unacked(table);
    }

    /// Gives the spool the copies, in order, as far as it takes them.
    fn spool_unacked(&self, table: &mut Table) {
        while let Some(front) = table.unacked.pop_front() {
            table.first += 1;
            let Some(Unacked { record, handle, since }) = front else { continue };
            let Err(refused) = self.submit(record, handle) else { continue };
            if let Error::Full | Error::Busy = refused.why {
                let Refused { record, handle, .. } = refused;
                table.first -= 1;
                table.unacked.push_front(Some(Unacked { record, handle, since }));
                return;
            }
            // Neither Kafka nor the disk: the handle fails, and its client publishes again, here or
            // elsewhere.
        }
        if table.unacked.capacity() > KEPT_UNACKED_MAX {
            table.unacked = VecDeque::new();
        }
    }

    fn submit(&self, record: Record, handle: AckHandle) -> Result<(), Refused> {
        let held = Arc::new(Mutex::new(Some(handle)));
        let (given, appended) = (held.clone(), self.metrics.spool.appended.clone());
        let done: Done = Box::new(move |outcome| {
            // Otherwise the handle fails by being dropped.
            if let (Some(handle), Ok(_)) = (given.lock().take(), outcome) {
                appended.inc();
                handle.complete(Outcome::Stored);
            }
        });
        let Err(refused) = self.spool.submit(vec![record], done) else { return Ok(()) };
        let (mut records, handle) = (refused.records, held.lock().take());
        match (records.pop(), handle) {
            (Some(record), Some(handle)) => Err(Refused { why: refused.why, record, handle }),
            _ => unreachable!("a refused append comes back, and its slot was not taken"),
        }
    }

    /// Resolves when the way changes to the spool, or has since this was last awaited.
    pub(crate) async fn switched(&self) {
        self.switched.notified().await;
    }

    /// Counts how often the way changed to the spool.
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
    pub(crate) async fn all_reported(&self) {
        loop {
            let mut all_reported = std::pin::pin!(self.all_reported.notified());
            all_reported.as_mut().enable();
            if self.unreported.load(Ordering::Acquire) == 0 {
                return;
            }
            all_reported.await;
        }
    }

    /// Goes direct again for sensors that have none in the spool, since Kafka takes records, unless the way
    /// has changed since `switches`, or copies still wait for the spool.
    pub(crate) fn resume(&self, switches: u64) {
        let mut table = self.table.lock();
        if table.is_spooling && table.switches == switches && table.unacked.is_empty() {
            table.is_spooling = false;
            self.metrics.spool.is_active.set(0);
            tracing::info!("records go to Kafka directly again, behind those that are spooled");
        }
    }

    /// Holds the sensors whose last records are under way from the spool to Kafka, for as long as the
    /// patience lasts. A sensor that publishes all the time would be held for ever otherwise.
    pub(crate) fn begin_return(&self) {
        let mut table = self.table.lock();
        if !table.is_spooling {
            table.returning_since.get_or_insert_with(Instant::now);
        }
    }

    /// Tells whether everything goes to the spool.
    pub(crate) fn is_spooling(&self) -> bool {
        self.table.lock().is_spooling
    }
}

/// A table that was once this long gives its memory back when it is empty again.
const KEPT_UNACKED_MAX: usize = 4096;

/// What the spool did not take, given back.
struct Refused {
    why: Error,
    record: Record,
    handle: AckHandle,
}

#[cfg(test)]
mod tests;

//! A batch written whatever happens: retried while the database is away, bisected when it refuses a row.

use crate::batch::{Batch, Readings, Reason};
use crate::dead_letter::DeadLetters;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::parcel::Parcel;
use crate::pending::{Pending, Refused};
use crate::store::{Error, Store};
use chassis::retry::{Disposition, Supervisor};
use rdkafka::message::Message as _;
use schema::Timestamp;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tries of a record that the database refuses on its own, before it is a dead letter.
const REFUSED_TRIES_MAX: u32 = 3;

pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) lanes: Arc<Lanes>,
    /// The lane that it writes for.
    pub(crate) lane: usize,
    pub(crate) metrics: Metrics,
    pub(crate) refused_wait_first: Duration,
}

impl Writer {
    /// Returns when every record of the batch is a row, a dead letter, or pending; only the offsets before a
    /// pending one may then be committed. It does not wait for the next try of a refused record, because its
    /// neighbours would.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    pub(crate) async fn store(&mut self, batch: &Batch, pending: &mut Pending) -> anyhow::Result<()> {
        let mut hopeless = Vec::new();
        for (reading, (reason, detail)) in self.store_or_bisect(batch.readings()).await? {
            let Some(rejected) = reading.reject_first(reason, detail) else { continue };
            if pending.has_room() {
                let mut parcel = Parcel::new(rejected.record.topic().into());
                parcel.push_owned(&rejected.record);
                let mut batch = Batch::default();
                batch.push(parcel);
                pending.push(Refused {
                    batch,
                    partition: rejected.record.partition(),
                    offset: rejected.record.offset(),
                    version: rejected.version,
                    tries: 1,
                    due: Instant::now() + self.refused_wait_first,
                });
            } else {
                hopeless.push(rejected);
            }
        }
        self.dead_letters.send_all(&hopeless).await;
        self.dead_letters.send_all(batch.rejected()).await;
        Ok(())
    }

    /// Tries a refused record again; the last try makes it a dead letter.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    pub(crate) async fn retry(&mut self, mut refused: Refused, pending: &mut Pending) -> anyhow::Result<()> {
        let still_refused = self.store_or_bisect(refused.batch.readings()).await?.pop();
        let rejection = still_refused.map(|(_, rejection)| rejection);
        let Some((reason, detail)) = rejection else { return Ok(()) };
        refused.tries += 1;
        if refused.tries < REFUSED_TRIES_MAX {
            refused.due = Instant::now() + self.refused_wait_first * 2_u32.pow(refused.tries - 1);
            pending.push(refused);
        } else if let Some(rejected) = refused.batch.readings().reject_first(reason, detail) {
            self.dead_letters.send_all(&[rejected]).await;
        }
        Ok(())
    }

    /// Writes what can be written and returns the records that the database refuses on their own, with its
    /// reason.
    ///
    /// Halves a refused batch: n records with one bad among them take about 2·log₂ n statements.
    async fn store_or_bisect<'a>(
        &mut self,
        readings: Readings<'a>,
    ) -> anyhow::Result<Vec<(Readings<'a>, (Reason, String))>> {
        let mut refused = Vec::new();
        let mut pending = vec![readings];
        while let Some(readings) = pending.pop() {
            match self.store_when_available(readings).await {
                Ok(()) => {}
                Err(error @ (Error::Refused(_) | Error::Overrun(_))) => {
                    if readings.count() == 1 {
                        refused.push((readings, error.rejection()));
                    } else {
                        let (first, second) = readings.halves();
                        pending.extend([second, first]);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(refused)
    }

    /// Tries the same rows until the database takes or refuses them, or does not finish them in time.
    ///
    /// A single record that the database does not finish is tried on and on: that is an outage, not a fault
    /// of its own.
    async fn store_when_available(&mut self, readings: Readings<'_>) -> Result<(), Error> {
        let Self { store, lanes, lane, metrics, .. } = self;
        let set_up = |is_up: bool| lanes.set_away(*lane, !is_up);
        let mut supervisor =
            Supervisor::new("database is away; the batch waits").counting(&metrics.retries).telling(&set_up);
        let disposition = |error: &Error| match error {
            // Its halves are tried in its place.
            Error::Overrun(_) if readings.count() > 1 => Disposition::DeadLetter,
            error => error.disposition(),
        };
        let (written, took) = loop {
            let started = Instant::now();
            let written = store.write(readings).await;
            let took = started.elapsed();
            if let ControlFlow::Break(written) = supervisor.after(written, disposition).await {
                break (written, took);
            }
        };
        if let Err(error @ Error::Overrun(_)) = &written {
            supervisor.wait(error).await;
        }
        self.observe(readings, written?, took);
        Ok(())
    }

    fn observe(&self, readings: Readings<'_>, inserted: u64, took: Duration) {
        let rows = readings.row_count();
        self.metrics.rows_inserted.inc_by(inserted);
        self.metrics.rows_duplicate.inc_by((rows as u64).saturating_sub(inserted));
        self.metrics.batch_rows.observe(rows as f64);
        self.metrics.write_seconds.observe(took.as_secs_f64());
        let now = Timestamp::now().as_micros();
        let ages = self.metrics.received_to_row_seconds.local(); // shared once, when it is dropped
        for entry in readings.entries {
            ages.observe(now.saturating_sub(entry.received_at.as_micros()) as f64 / 1e6);
        }
    }
}

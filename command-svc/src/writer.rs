//! A batch written whatever happens: retried while the database is away, bisected when it refuses a row.

use crate::batch::{Batch, Readings, Rejected};
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::store::{Error, Store};
use chassis::admin::Latch;
use chassis::retry::Backoff;
use futures::future::join_all;
use schema::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A record that the database refuses on its own is tried so many times before it is a dead letter.
const REFUSED_TRIES_MAX: u32 = 3;

pub(crate) struct Writer {
    store: Store,
    dead_letters: DeadLetters,
    latch: Latch,
    metrics: Metrics,
    refused_wait_first: Duration,
}

impl Writer {
    pub(crate) fn new(
        store: Store,
        dead_letters: DeadLetters,
        latch: Latch,
        metrics: Metrics,
        refused_wait_first: Duration,
    ) -> Self {
        Self { store, dead_letters, latch, metrics, refused_wait_first }
    }

    /// Returns when every record of the batch is a row or a dead letter, for good; only then may its offsets be
    /// committed.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    pub(crate) async fn store(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let mut refused = self.store_or_bisect(batch.readings()).await?;
        for tries in 1..REFUSED_TRIES_MAX {
            if refused.is_empty() {
                break;
            }
            sleep(self.refused_wait_first * 2_u32.pow(tries - 1)).await;
            let mut still_refused = Vec::new();
            for (reading, _) in refused {
                still_refused.extend(self.store_or_bisect(reading).await?);
            }
            refused = still_refused;
        }
        for (reading, reason) in refused {
            if let Some(record) = reading.first_record() {
                self.dead_letters.send(&Rejected { record, reason }).await;
            }
        }
        // All at once: a device that sends a year of what is past retention must not slow down the others.
        join_all(batch.rejected().iter().map(|rejected| self.dead_letters.send(rejected))).await;
        Ok(())
    }

    /// Writes what can be written and returns the records that the database refuses on their own, with its reason.
    ///
    /// Halves a refused batch: n records with one bad among them take about 2·log₂ n statements.
    async fn store_or_bisect<'a>(
        &mut self,
        readings: Readings<'a>,
    ) -> anyhow::Result<Vec<(Readings<'a>, String)>> {
        let mut refused = Vec::new();
        let mut pending = vec![readings];
        while let Some(readings) = pending.pop() {
            match self.store_when_available(readings).await {
                Ok(()) => {}
                Err(error @ (Error::Refused(_) | Error::Overrun(_))) => {
                    if readings.count() == 1 {
                        refused.push((readings, error.reason()));
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
    /// A single record that the database does not finish is tried on and on: that is an outage, not a fault of its own.
    async fn store_when_available(&mut self, readings: Readings<'_>) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            match self.store.write(readings).await {
                Ok(inserted) => {
                    self.latch.open();
                    self.observe(readings, inserted, started.elapsed());
                    return Ok(());
                }
                Err(Error::Unavailable(error)) => self.wait(&error, &mut backoff).await,
                Err(Error::Overrun(error)) => {
                    self.wait(&error, &mut backoff).await;
                    if readings.count() > 1 {
                        return Err(Error::Overrun(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn wait(&self, error: &anyhow::Error, backoff: &mut Backoff) {
        self.latch.close();
        self.metrics.retries.inc();
        let wait = backoff.next_wait();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(error = format!("{error:#}"), wait_ms, "database is away; the batch waits");
        sleep(wait).await;
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

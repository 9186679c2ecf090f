//! The batch that is being gathered, and when it is ready to be written.

use crate::batch::{Batch, Limits};
use crate::parcel::Parcel;
use std::convert::Infallible;
use tokio::sync::mpsc::Receiver;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Gathers records. What gathers while the batch before is written makes the next batch larger, up to the
/// limits: so a quiet topic has small batches and low latency, a lagging one large batches and high
/// throughput, and nothing is tuned.
pub(crate) struct Accumulator {
    batch: Batch,
    oldest: Option<Instant>,
    limits: Limits,
}

impl Accumulator {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { batch: Batch::default(), oldest: None, limits }
    }

    /// Returns the gathered batch and begins the next.
    pub(crate) fn take(&mut self) -> Batch {
        self.oldest = None;
        std::mem::take(&mut self.batch)
    }

    /// Gathers until the batch is worth writing or old enough; false when no more records will come.
    pub(crate) async fn gather(&mut self, parcels: &mut Receiver<Parcel>) -> bool {
        while !self.batch.is_ready(&self.limits) {
            let ready_at = self.oldest.map(|oldest| oldest + self.limits.age_max);
            tokio::select! {
                biased;
                () = at(ready_at) => return true,
                received = parcels.recv() => match received {
                    Some(parcel) => self.push(parcel),
                    None => return false,
                }
            }
        }
        true
    }

    /// Gathers until the batch is full, then waits. Dropped when the batch before is written.
    pub(crate) async fn keep_gathering(&mut self, parcels: &mut Receiver<Parcel>) -> Infallible {
        while !self.batch.is_full(&self.limits) {
            match parcels.recv().await {
                // The write that this runs beside has its turn between two parcels.
                Some(parcel) => {
                    self.push(parcel);
                    yield_now().await;
                }
                None => break,
            }
        }
        std::future::pending().await
    }

    fn push(&mut self, parcel: Parcel) {
        self.batch.push(parcel);
        self.oldest.get_or_insert_with(Instant::now);
    }
}

/// Waits until then; for ever without a deadline.
pub(crate) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

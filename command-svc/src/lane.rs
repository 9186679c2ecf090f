//! One writer's lane: the readings of its partitions, in order.
//!
//! A partition belongs to one lane, so lanes never wait for each other's rows or offsets.

use crate::accumulator::{Accumulator, at};
use crate::batch::{Batch, Limits, Next};
use crate::in_flight::InFlight;
use crate::parcel::Parcel;
use crate::pending::Pending;
use crate::retention::Retention;
use crate::writer::Writer;
use chassis::kafka::{Done, Member};
use rdkafka::consumer::{CommitMode, StreamConsumer};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) struct Lane {
    pub(crate) parcels: Receiver<Parcel>,
    pub(crate) consumer: Arc<StreamConsumer<Member>>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) topic: String,
    pub(crate) writer: Writer,
    pub(crate) limits: Limits,
    pub(crate) retention: Retention,
    pub(crate) pending: Pending,
    /// Cancelled when a drain has taken too long.
    pub(crate) overdue: CancellationToken,
}

impl Lane {
    /// Writes until the router hangs up, or until the drain after it is overdue.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let overdue = self.overdue.clone();
        let Some(outcome) = overdue.run_until_cancelled(self.write()).await else {
            tracing::warn!("not all that was at hand is stored; it will be delivered again");
            return Ok(());
        };
        outcome
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        let mut accumulator = Accumulator::new(self.limits);
        loop {
            tokio::select! {
                has_more = accumulator.gather(&mut self.parcels) => {
                    let mode = if has_more { CommitMode::Async } else { CommitMode::Sync };
                    self.store(&mut accumulator, mode).await?;
                    if !has_more {
                        return Ok(());
                    }
                }
                () = at(self.pending.due().map(Instant::from_std)) => self.retry().await?,
            }
        }
    }

    /// Stores what is gathered, while the next batch fills.
    async fn store(&mut self, accumulator: &mut Accumulator, mode: CommitMode) -> anyhow::Result<()> {
        let mut batch = accumulator.take();
        // First the note that it is under way, then the look at what is still ours: a rebalance in between
        // waits for nothing.
        let under_way = self.in_flight.begin(batch.next_offsets().keys().copied().collect());
        let assignment = &self.in_flight.assignment;
        batch.retain(|partition, version| assignment.holds_since(partition, version));
        self.pending.retain(|partition, version| assignment.holds_since(partition, version));
        self.reject_old(&mut batch);
        if batch.is_empty() {
            return Ok(());
        }
        tokio::select! {
            stored = self.writer.store(&batch, &mut self.pending) => stored?,
            never = accumulator.keep_gathering(&mut self.parcels) => match never {},
        }
        let ready = self.pending.committable(batch.next_offsets());
        self.commit(&ready, mode);
        drop(under_way);
        Ok(())
    }

    /// Tries refused records again, and commits what waited for them.
    async fn retry(&mut self) -> anyhow::Result<()> {
        let assignment = &self.in_flight.assignment;
        self.pending.retain(|partition, version| assignment.holds_since(partition, version));
        while let Some(refused) = self.pending.take_due(Instant::now().into_std()) {
            self.writer.retry(refused, &mut self.pending).await?;
        }
        let ready = self.pending.committable(&BTreeMap::new());
        self.commit(&ready, CommitMode::Async);
        Ok(())
    }

    fn commit(&self, ready: &BTreeMap<i32, Next>, mode: CommitMode) {
        let done = |next: &Next| Done { next: next.offset, version: next.version };
        let ready = ready.iter().map(|(partition, next)| (*partition, done(next))).collect();
        self.in_flight.commits.commit(&self.consumer, &self.topic, &ready, mode);
    }

    fn reject_old(&self, batch: &mut Batch) {
        if let Some((kept_from, reason)) = self.retention.refuses_before(OffsetDateTime::now_utc()) {
            batch.reject_before(kept_from, &reason);
        }
    }
}

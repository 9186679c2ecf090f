//! The batch that is being gathered, and when it is ready to be written.

use crate::batch::{Batch, Limits};
use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::Monitor;
use rdkafka::consumer::{Consumer, StreamConsumer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How often an idle loop says that it is alive.
const BEAT: Duration = Duration::from_secs(5);

/// Gathers records up to the limits; beyond them the partitions are paused.
pub(crate) struct Filling {
    batch: Batch,
    oldest: Option<Instant>,
    limits: Limits,
    paused: bool,
}

impl Filling {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { batch: Batch::default(), oldest: None, limits, paused: false }
    }

    /// Returns the gathered batch and begins the next.
    pub(crate) fn take(&mut self) -> Batch {
        self.oldest = None;
        std::mem::take(&mut self.batch)
    }

    /// Gathers until the batch is full or old enough; false at shutdown.
    pub(crate) async fn fill(
        &mut self,
        consumer: &StreamConsumer<Monitor>,
        chassis: &Chassis,
    ) -> anyhow::Result<bool> {
        self.resume(consumer)?;
        while !self.batch.is_full(&self.limits) {
            let ready_at = self.oldest.map(|oldest| oldest + self.limits.age_max);
            tokio::select! {
                biased;
                () = chassis.shutdown.cancelled() => return Ok(false),
                () = at(ready_at) => break,
                () = self.receive(consumer, chassis) => {}
            }
        }
        Ok(true)
    }

    /// Gathers until the batch is full, then only keeps the membership. Dropped when the batch before is written.
    pub(crate) async fn keep_filling(
        &mut self,
        consumer: &StreamConsumer<Monitor>,
        chassis: &Chassis,
    ) -> anyhow::Result<Infallible> {
        loop {
            if self.batch.is_full(&self.limits) {
                // Every time: partitions that a rebalance just brought are not paused yet.
                let assigned = consumer.assignment().context("ask for the assignment")?;
                consumer.pause(&assigned).context("pause readings")?;
                self.paused = true;
            }
            self.receive(consumer, chassis).await;
        }
    }

    fn resume(&mut self, consumer: &StreamConsumer<Monitor>) -> anyhow::Result<()> {
        if std::mem::take(&mut self.paused) {
            let assigned = consumer.assignment().context("ask for the assignment")?;
            consumer.resume(&assigned).context("resume readings")?;
        }
        Ok(())
    }

    /// Waits for one record, or a beat. Cancelling it loses nothing: a record is received and pushed in one step.
    async fn receive(&mut self, consumer: &StreamConsumer<Monitor>, chassis: &Chassis) {
        tokio::select! {
            received = consumer.recv() => match received {
                Ok(record) => {
                    self.batch.push(record.detach());
                    self.oldest.get_or_insert_with(Instant::now);
                }
                // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                Err(error) => tracing::warn!(%error, "readings cannot be read now"),
            },
            () = sleep(BEAT) => {}
        }
        chassis.liveness.beat();
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! One writer's lane: the readings of its partitions, in order.
//!
//! A partition belongs to one lane, so lanes never wait for each other's rows or offsets.

use crate::batch::{Batch, Limits};
use crate::filling::Filling;
use crate::parcel::Parcel;
use crate::retention::Retention;
use crate::writer::Writer;
use chassis::kafka::Monitor;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// What is at hand at shutdown may take so long to be written; the rest is delivered again.
const DRAIN_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Lane {
    pub(crate) parcels: Receiver<Parcel>,
    pub(crate) consumer: Arc<StreamConsumer<Monitor>>,
    pub(crate) topic: String,
    pub(crate) writer: Writer,
    pub(crate) limits: Limits,
    pub(crate) retention: Retention,
}

impl Lane {
    /// Writes until the router hangs up.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut filling = Filling::new(self.limits);
        while filling.fill(&mut self.parcels).await {
            let mut batch = filling.take();
            self.reject_old(&mut batch);
            // While this batch is written, the next one fills.
            tokio::select! {
                stored = self.writer.store(&batch) => stored?,
                never = filling.keep_filling(&mut self.parcels) => match never {},
            }
            self.commit(&batch, CommitMode::Async);
        }
        let mut rest = filling.take();
        self.reject_old(&mut rest);
        if !rest.is_empty()
            && let Ok(stored) = timeout(DRAIN_MAX, self.writer.store(&rest)).await
        {
            stored?;
            self.commit(&rest, CommitMode::Sync);
        }
        Ok(())
    }

    fn reject_old(&self, batch: &mut Batch) {
        if let Some((kept_from, reason)) = self.retention.refuses_before(OffsetDateTime::now_utc()) {
            batch.reject_before(kept_from, &reason);
        }
    }

    /// Commits what the batch has done, for partitions that are still ours; another's commit must not move back.
    fn commit(&self, batch: &Batch, mode: CommitMode) {
        let Ok(assigned) = self.consumer.assignment() else { return };
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in batch.next_offsets() {
            if assigned.find_partition(&self.topic, *partition).is_some() {
                // Cannot fail: the offset after a received record is a valid one.
                let _ = offsets.add_partition_offset(&self.topic, *partition, Offset::Offset(*next));
            }
        }
        if offsets.count() == 0 {
            return;
        }
        // Not fatal: without the commit the batch is delivered again, and its rows are there already.
        if let Err(error) = self.consumer.commit(&offsets, mode) {
            tracing::warn!(%error, "offsets are not committed; the batch will be delivered again");
        }
    }
}

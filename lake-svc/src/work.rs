//! What waits for a store or a broker, apart from the loop that keeps the group membership: lookups and
//! writes.

use crate::buffer::Record;
use crate::cut::Cut;
use crate::file::files_of;
use crate::lake::{Error, Lake, Position};
use crate::metrics::Metrics;
use anyhow::{Context, bail};
use chassis::admin::Latch;
use chassis::kafka::Member;
use chassis::retry::{Backoff, Supervisor};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::topic_partition_list::Offset;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Cuts that are written at the same time. As many can be incomplete after a crash.
const WRITES_MAX: usize = 4;
/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Says where a partition starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) first: i64,
    pub(crate) pinned_last: Option<i64>,
}

/// Says what became of a cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Written {
    /// Its files are there.
    Done,
    /// Another instance's cut stands in its place.
    Outrun,
}

/// Does the work. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Work {
    lake: Lake,
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
    latch: Latch,
    metrics: Metrics,
    write_permits: Arc<Semaphore>,
}

impl Work {
    pub(crate) fn new(
        lake: Lake,
        consumer: Arc<StreamConsumer<Member>>,
        topic: String,
        latch: Latch,
        metrics: Metrics,
    ) -> Self {
        Self { lake, consumer, topic, latch, metrics, write_permits: Arc::new(Semaphore::new(WRITES_MAX)) }
    }

    /// Finds out where a partition starts and points the consumer there, however long it takes.
    ///
    /// # Errors
    /// The lake was filled from another topic (stop).
    pub(crate) async fn start(self, partition: i32) -> anyhow::Result<Start> {
        let set_up = |is_up| self.latch.set(is_up);
        let look = |_| async { self.lake.position(partition).await.map_err(Error::Unavailable) };
        let position = self.supervisor(&set_up).run(Error::disposition, look).await?;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
            let asked = spawn_blocking(move || {
                consumer.fetch_watermarks(&topic, partition, ANSWER_WAIT).context("ask for the watermarks")
            });
            match asked.await.context("ask for the watermarks")? {
                Ok(watermarks) => {
                    let start = self.start_within(partition, position, watermarks)?;
                    match self.seek(partition, start.first).await {
                        Ok(()) => return Ok(start),
                        // The partition is not fetched yet, or ours no more; then this work is dropped.
                        Err(error) => {
                            tracing::debug!(partition, error = format!("{error:#}"), "cannot seek yet");
                        }
                    }
                }
                Err(error) => tracing::warn!(partition, error = format!("{error:#}"), "broker is away"),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Points the consumer at an offset.
    pub(crate) async fn seek(&self, partition: i32, offset: i64) -> anyhow::Result<()> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let sought = spawn_blocking(move || {
            consumer.seek(&topic, partition, Offset::Offset(offset), ANSWER_WAIT).context("seek")
        });
        sought.await.context("seek")?
    }

    /// Holds what the store says against what Kafka still has.
    fn start_within(&self, partition: i32, at: Position, (low, high): (i64, i64)) -> anyhow::Result<Start> {
        let Position { next: Some(first), pinned_last } = at else {
            return Ok(Start { first: low, pinned_last: None });
        };
        let done = pinned_last.map_or(first, |last| last + 1);
        if done > high {
            bail!(
                "partition {partition} of {} ends at {high}, but the lake holds its offsets up to {done}: the topic was \
                 made anew; give this one a new LAKE_URL",
                self.topic
            );
        }
        Ok(Start { first, pinned_last })
    }

    /// Writes a cut, however long it takes.
    ///
    /// # Errors
    /// The files cannot be laid out (stop).
    pub(crate) async fn write(self, cut: Cut, records: Vec<Record>) -> anyhow::Result<Written> {
        let _permit = self.write_permits.acquire().await.context("wait for a permit")?;
        let started = Instant::now();
        let files = spawn_blocking(move || files_of(cut, &records)).await.context("lay out files")?;
        let files = files.context("lay out files")?;
        let set_up = |is_up| self.latch.set(is_up);
        let write = |_| self.lake.write(&cut, &files);
        match self.supervisor(&set_up).run(Error::disposition, write).await {
            Ok(()) => {}
            Err(Error::Outrun) => {
                self.latch.open();
                self.metrics.outrun.inc();
                return Ok(Written::Outrun);
            }
            Err(error) => return Err(error).context("write a cut"),
        }
        let Cut { partition, first, last } = cut;
        let undecodable = files.manifest.undecodable;
        if undecodable > 0 {
            tracing::warn!(partition, first, last, undecodable, "records are no readings and in no file");
        }
        self.metrics.undecodable.inc_by(undecodable);
        self.metrics.rows.inc_by(files.manifest.rows.values().sum());
        self.metrics.files.inc_by(files.files.len() as u64);
        self.metrics.file_bytes.inc_by(files.files.iter().map(|(_, content)| content.len() as u64).sum());
        self.metrics.write_seconds.observe(started.elapsed().as_secs_f64());
        Ok(Written::Done)
    }

    /// Asks the store again while it is away.
    fn supervisor<'a>(&'a self, set_up: &'a (dyn Fn(bool) + Sync)) -> Supervisor<'a> {
        Supervisor::new("store is away; trying again").counting(&self.metrics.retries).telling(set_up)
    }
}

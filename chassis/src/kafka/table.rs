//! A compacted topic held whole: read to its end once, then followed live.
//!
//! Nobody misses a record that a stuck reader does not read, so a [`Watch`](super::Watch) belongs beside
//! each: the reader says by its assignment how far it is, and the watch asks the broker for the end.

use super::{Assignment, Quiet, Settings, partitions};
use crate::admin::Latch;
use crate::retry::Backoff;
use anyhow::Context;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use tokio_util::sync::CancellationToken;

/// Most kibibytes fetched ahead of the table.
const QUEUE_KIB_MAX: &str = "8192";
/// Milliseconds between two looks whether a full queue has room again.
const QUEUE_LOOK_MS: &str = "5";

/// Says what is read, and who is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The reader's name, without its prefix; it is in no group.
    pub reader: &'a str,
    /// The topic with its prefix.
    pub topic: &'a str,
    /// Opened when the table is loaded.
    pub latch: &'a Latch,
    /// Shows how far the reader is.
    pub assignment: &'a Assignment,
}

/// Feeds every record of the topic to `apply`, from the first on, and never ends by itself.
///
/// Shape: `apply(key, value)`; `None` as value is a tombstone; per key in topic order, and a key may come
/// again.
/// Guarantee: `loaded` is called once, when every record that stood in the topic at the start has been
/// applied.
/// On failure: Kafka away → the table stays as it is and catches up later; before the first load the latch
/// stays closed.
///
/// # Errors
/// The client cannot be made (stop).
pub async fn follow(
    settings: &Settings,
    source: Source<'_>,
    shutdown: &CancellationToken,
    mut apply: impl FnMut(&[u8], Option<&[u8]>),
    loaded: impl FnOnce(),
) -> anyhow::Result<()> {
    let Source { reader, topic, latch, assignment } = source;
    let consumer: StreamConsumer<Quiet> = settings
        .consumer(reader)
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
        .set("fetch.queue.backoff.ms", QUEUE_LOOK_MS)
        .create_with_context(Quiet)
        .context("create the consumer of a table topic")?;
    let Some(mut unread) = assign_all(consumer, topic, shutdown).await? else { return Ok(()) };
    assignment.assign(unread.partitions.iter().copied());
    // The offset after the last record of each partition.
    let mut next = BTreeMap::new();
    let mut loaded = Some(loaded);
    let mut is_readable = true;
    loop {
        let received = tokio::select! {
            received = unread.consumer.recv() => received,
            () = shutdown.cancelled() => return Ok(()),
        };
        if !is_readable && received.is_ok() {
            is_readable = true;
            tracing::info!(topic, "table topic can be read again");
        }
        match received {
            Ok(record) => {
                apply(record.key().unwrap_or_default(), record.payload());
                next.insert(record.partition(), record.offset() + 1);
                assignment.reach(record.partition(), record.offset() + 1);
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                assignment.end(partition, next.get(&partition).copied().unwrap_or_default());
                unread.partitions.remove(&partition);
                if unread.partitions.is_empty()
                    && let Some(loaded) = loaded.take()
                {
                    tracing::info!(topic, "table is loaded");
                    loaded();
                    latch.open();
                }
            }
            // librdkafka reconnects by itself; the table keeps what it has.
            Err(error) => {
                if std::mem::replace(&mut is_readable, false) {
                    tracing::warn!(topic, %error, "table topic cannot be read now; the table stays as it is");
                }
            }
        }
    }
}

struct Unread {
    consumer: StreamConsumer<Quiet>,
    partitions: BTreeSet<i32>,
}

/// Assigns every partition of the topic from its beginning; waits until the topic is there.
async fn assign_all(
    consumer: StreamConsumer<Quiet>,
    topic: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Unread>> {
    let mut consumer = consumer;
    let mut backoff = Backoff::default();
    loop {
        let name = topic.to_owned();
        // The call blocks its thread, so it gets one of its own.
        let (returned, partitions) = tokio::task::spawn_blocking(move || {
            let partitions = partitions(&consumer, &name);
            (consumer, partitions)
        })
        .await
        .context("ask for the partitions of a table topic")?;
        consumer = returned;
        match partitions {
            Ok(partitions) if !partitions.is_empty() => {
                let mut assignment = TopicPartitionList::new();
                for partition in &partitions {
                    assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
                }
                consumer.assign(&assignment).context("assign a table topic")?;
                return Ok(Some(Unread { consumer, partitions }));
            }
            Ok(_) => tracing::warn!(topic, "table topic does not exist yet"),
            Err(error) => tracing::warn!(topic, %error, "no broker names the partitions of a table topic"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

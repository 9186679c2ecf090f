//! Rebuilds the memory of a partition from the tail of `iot-alerts`.

use crate::memory::{Cause, Memory};
use anyhow::{Context, bail};
use chassis::kafka::{Quiet, Settings};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A broker that does not answer for so long is away.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Waits this long for the end to become stable and be read. A transaction that a killed instance left open is aborted by
/// the broker after its timeout of 10 s, which the broker looks at every 10 s.
const RECALL_WAIT: Duration = Duration::from_secs(45);
/// How often the stable end is looked at, and how long one poll waits.
const LOOK: Duration = Duration::from_millis(10);

/// What is needed of an alert.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Caused {
    threshold_id: Uuid,
    event_id: Uuid,
}

/// Reads the last alerts of the partitions.
///
/// Guarantee: holds every alert that was committed, or that stood in an open transaction which was committed later, when
/// the call began. The broker writes the commit marker of a transaction to each partition on its own, so the offsets of
/// the former owner may be visible before its alerts are. Hence: ask for the end without regard to transactions, wait
/// until the stable end has reached it, then read to the stable end.
pub(crate) fn recall(
    settings: &Settings,
    topic: &str,
    partitions: &BTreeSet<i32>,
    memory: &mut Memory,
    beat: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + RECALL_WAIT;
    let stable = consumer(settings, "read_committed")?;
    let all = consumer(settings, "read_uncommitted")?;
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let (low, high) = all.fetch_watermarks(topic, *partition, ANSWER_WAIT).context("ask for an end")?;
        while stable.fetch_watermarks(topic, *partition, ANSWER_WAIT).context("ask for a stable end")?.1
            < high
        {
            if Instant::now() > deadline || !beat() {
                bail!("a transaction stays open");
            }
            // Nothing is assigned yet, so this only waits.
            stable.poll(LOOK);
        }
        // A transaction that holds one alert takes two offsets: the alert's and the marker's.
        let records = i64::try_from(memory.capacity().saturating_mul(2)).unwrap_or(i64::MAX);
        let from = high.saturating_sub(records).max(low);
        assignment.add_partition_offset(topic, *partition, Offset::Offset(from))?;
    }
    stable.assign(&assignment).context("assign the alerts")?;
    let mut unread = partitions.clone();
    while !unread.is_empty() {
        if Instant::now() > deadline || !beat() {
            bail!("the end of the alerts does not come");
        }
        match stable.poll(LOOK) {
            None => {}
            Some(Ok(record)) => {
                // What is no alert cannot have been caused by a reading.
                let caused = record.payload().and_then(|value| serde_json::from_slice::<Caused>(value).ok());
                if let Some(Caused { threshold_id, event_id }) = caused {
                    memory.remember(record.partition(), Cause { threshold_id, event_id });
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error).context("read the alerts"),
        }
    }
    Ok(())
}

fn consumer(settings: &Settings, isolation: &str) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut config = settings.consumer("alerting-svc-recall");
    config.set("enable.partition.eof", "true").set("isolation.level", isolation);
    config.create_with_context(Quiet).context("create a consumer of alerts")
}

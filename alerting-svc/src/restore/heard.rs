//! The last readings before the committed offset: read again for when their sensors spoke.

use crate::GROUP;
use crate::shared::Shared;
use anyhow::{Context, bail};
use chassis::kafka::Quiet;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rules::UNWRITTEN_OFFSETS_MAX;
use schema::{ReadingView, topics};
use std::time::{Duration, Instant};

/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Longest time without a record of those that are there.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);

/// Reads readings again, in no group. Its calls block.
pub(super) struct Heard {
    client: BaseConsumer<Quiet>,
    topic: String,
}

impl Heard {
    /// Makes the client, which asks for the group's offsets and does not join it.
    pub(super) fn open(shared: &Shared) -> anyhow::Result<Self> {
        let kafka = &shared.config.kafka;
        let mut config = kafka.consumer(GROUP);
        config.set("enable.partition.eof", "true");
        let client = config.create_with_context(Quiet).context("create a consumer")?;
        Ok(Self { client, topic: kafka.topic(topics::READINGS.name) })
    }

    /// Returns the offset that the group has committed: every reading before it is evaluated. A transaction
    /// that is not settled yet is waited for.
    pub(super) fn committed(&self, partition: i32) -> anyhow::Result<Option<i64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        let answer = self.client.committed_offsets(list, ANSWER_WAIT).context("ask for an offset")?;
        let element = answer.find_partition(&self.topic, partition).context("ask for an offset")?;
        element.error().context("ask for an offset")?;
        Ok(match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    }

    /// Reads the readings before `next` that a record may not know of yet.
    pub(super) fn hear_again(
        &self,
        partition: i32,
        next: i64,
        mut hear: impl FnMut(&ReadingView<'_>, i64),
    ) -> anyhow::Result<()> {
        let first = next.saturating_sub(UNWRITTEN_OFFSETS_MAX + 1).max(0);
        if next <= first {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(first))?;
        self.client.assign(&list).context("assign a partition")?;
        let mut moved = Instant::now();
        loop {
            match self.client.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    moved = Instant::now();
                    if record.offset() < next
                        && let Some(Ok(reading)) = record.payload().map(serde_json::from_slice)
                    {
                        hear(&reading, record.offset());
                    }
                    if record.offset() + 1 >= next {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                // librdkafka reconnects by itself; a standstill shows what it cannot heal.
                Some(Err(error)) => tracing::debug!(%error, "readings cannot be read again now"),
                None if moved.elapsed() > STANDSTILL_MAX => bail!("readings cannot be read again"),
                None => {}
            }
        }
        self.client.unassign().context("let go of a partition")
    }
}

//! Topic `iot-reading-topic`, as the group assigns it: polled, resumed, and read again from an offset.

use crate::GROUP;
use crate::failure::Failure;
use crate::shared::Shared;
use anyhow::{Context, anyhow};
use chassis::kafka::{Change, Member, Monitor, REPORT_INTERVAL_MS, partitions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::topics;
use std::collections::BTreeMap;
use std::time::Duration;

/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Most kibibytes fetched ahead of the session: some 25,000 readings, more than wait for a commit to end.
/// Each takes about as much again for itself.
const QUEUE_KIB_MAX: &str = "8192";
/// Most bytes of one answer for a partition, compressed; beyond the queue's bound there is one answer more.
const FETCH_BYTES_MAX: &str = "262144";
/// Milliseconds between two looks whether a full queue has room again.
const QUEUE_LOOK_MS: &str = "5";

/// Consumes readings. Nothing is committed by it; see `commit`.
pub(crate) struct ReadingsConsumer {
    client: BaseConsumer<Member>,
    topic: String,
}

impl ReadingsConsumer {
    /// Makes the client and checks the topics; it joins the group with [`ReadingsConsumer::subscribe`].
    pub(crate) fn open(shared: &Shared) -> Result<Self, Failure> {
        let kafka = &shared.config.kafka;
        let monitor = Monitor::new(shared.chassis.readiness.latch("kafka"));
        let client: BaseConsumer<Member> = kafka
            .consumer(GROUP)
            .set("group.instance.id", &shared.config.instance_id)
            .set("statistics.interval.ms", REPORT_INTERVAL_MS)
            .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
            .set("fetch.message.max.bytes", FETCH_BYTES_MAX)
            .set("fetch.queue.backoff.ms", QUEUE_LOOK_MS)
            // A rebalance takes away only what moves; the other partitions go on.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .create_with_context(Member::new(monitor, shared.assignment.clone()).beginning_paused())
            .context("create the readings consumer")
            .map_err(Failure::Stop)?;
        let consumer = Self { client, topic: kafka.topic(topics::READINGS.name) };
        for topic in [topics::ALERTS, topics::ALERT_STATE] {
            consumer.check_partitions(&kafka.topic(topic.name))?;
        }
        Ok(consumer)
    }

    /// Joins the group.
    pub(crate) fn subscribe(&self) -> Result<(), Failure> {
        self.client.subscribe(&[&self.topic]).context("subscribe to readings").map_err(Failure::Stop)
    }

    /// Refuses topics that are not co-partitioned: the owner of a partition of readings writes and restores
    /// that partition of alerts and of episodes.
    fn check_partitions(&self, other: &str) -> Result<(), Failure> {
        let count = |topic: &str| -> Result<usize, Failure> {
            let partitions = partitions(&self.client, topic).context("ask for the partitions");
            match partitions.map_err(Failure::Retry)?.len() {
                0 => Err(Failure::Retry(anyhow!("topic {topic} does not exist"))),
                count => Ok(count),
            }
        };
        let (of_readings, of_other) = (count(&self.topic)?, count(other)?);
        if of_readings == of_other {
            return Ok(());
        }
        Err(Failure::Stop(anyhow!(
            "{} has {of_readings} partitions and {other} has {of_other}; they must have the same number",
            self.topic
        )))
    }

    /// Returns the next record, if one comes in time.
    pub(crate) fn poll(&self, wait: Duration) -> Result<Option<BorrowedMessage<'_>>, Failure> {
        match self.client.poll(wait) {
            Some(Ok(record)) => Ok(Some(record)),
            // librdkafka reconnects by itself; a fatal error shows that another instance has our name.
            Some(Err(error)) => match self.client.client().fatal_error() {
                Some((code, reason)) => Err(Failure::Stop(anyhow!("{code}: {reason}"))),
                None => {
                    tracing::warn!(%error, "readings cannot be consumed now");
                    Ok(None)
                }
            },
            None => Ok(None),
        }
    }

    /// Says whether the assignment has changed since its changes were taken.
    pub(crate) fn has_changed(&self) -> bool {
        self.client.context().has_changed()
    }

    /// Takes the changes of the assignment since the last call.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        self.client.context().take()
    }

    /// Reads on in a partition that was assigned.
    pub(crate) fn resume(&self, partition: i32) -> Result<(), Failure> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        self.client.resume(&list).context("resume a partition").map_err(Failure::Retry)
    }

    /// Reads the partitions again from these offsets.
    pub(crate) fn seek(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), Failure> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.list(offsets)?;
        let sought = self.client.seek_partitions(list, ANSWER_WAIT).context("seek");
        let sought = sought.map_err(Failure::Retry)?;
        let outcome = sought.elements().iter().try_for_each(|element| element.error());
        outcome.context("seek").map_err(Failure::Retry)
    }

    /// Asks the broker for the ends of partitions.
    pub(crate) fn ends(
        &self,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, partition, Offset::End)
                .context("name an offset")
                .map_err(Failure::Stop)?;
        }
        let answer = self.client.offsets_for_times(list, ANSWER_WAIT);
        let answer = answer.context("ask for the ends").map_err(Failure::Retry)?;
        let elements = answer.elements();
        let known = elements.iter().filter_map(|element| match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
            _ => None,
        });
        Ok(known.collect())
    }

    /// Lists offsets of the topic, as the client takes them.
    pub(crate) fn list(&self, offsets: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, Failure> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .context("name an offset")
                .map_err(Failure::Stop)?;
        }
        Ok(list)
    }
}

//! A producer that does nothing but produce: the least that any gateway to Kafka spends.

use super::{Run, Stage};
use crate::cpu;
use crate::topic::{Topic, headers};
use anyhow::{Context as _, Result, ensure};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use std::time::{Duration, Instant};

/// Timeout after which a broker on this machine counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Records between two looks at the delivery reports.
const POLL_EVERY: usize = 1_000;

/// A record as the gateway wrote it.
pub(super) struct Event {
    key: Vec<u8>,
    /// The bytes of a reading.
    pub(super) value: Vec<u8>,
}

/// Reads what the gateway has written.
pub(super) fn events(readings: &Topic) -> Result<Vec<Event>> {
    let mut config = readings.settings.client();
    config.set("group.id", "bench-gateway").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().context("create a consumer")?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..readings.partitions() {
        partitions.add_partition_offset(&readings.name, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    let wanted = usize::try_from(readings.held()?)?;
    let mut events = Vec::with_capacity(wanted);
    while events.len() < wanted {
        let record = consumer.poll(ANSWER_MAX).context("the broker does not hand out its records")??;
        let (key, value) = (record.key().unwrap_or_default(), record.payload().unwrap_or_default());
        events.push(Event { key: key.to_vec(), value: value.to_vec() });
    }
    Ok(events)
}

/// Produces as many of `events`, again and again, and waits until Kafka has acknowledged all.
pub(super) fn run(stage: &Stage, messages: u32) -> Result<Run> {
    // The gateway's own settings; nothing else runs in this process meanwhile.
    let producer: BaseProducer = stage.kafka.producer().create().context("create a producer")?;
    producer.client().fetch_metadata(Some(&stage.readings.name), ANSWER_MAX).context("ask for metadata")?;
    let held = stage.readings.held()?;
    let (started, cpu) = (Instant::now(), cpu::of_process(std::process::id())?);
    for (number, event) in stage.events.iter().cycle().take(messages as usize).enumerate() {
        let mut record =
            BaseRecord::to(&stage.readings.name).key(&event.key).payload(&event.value).headers(headers());
        while let Err((error, refused)) = producer.send(record) {
            let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(is_full, "the bare producer cannot produce: {error}");
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        if number % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(ANSWER_MAX).context("wait for the broker to take every record")?;
    let (took, cpu) = (started.elapsed(), cpu::of_process(std::process::id())?.saturating_sub(cpu));
    let stored = stage.readings.held()? - held;
    ensure!(stored == i64::from(messages), "{stored} of {messages} records are stored");
    Ok(Run { messages: stored, took, cpu })
}

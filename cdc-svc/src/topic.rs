//! What the update topics hold.

use crate::envelope::TABLES;
use anyhow::{Context, bail};
use chassis::kafka::{Quiet, Settings};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A broker that does not answer for so long is away.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Reading a topic to its end may take so long; beyond it Kafka counts as away.
const READ_WAIT: Duration = Duration::from_secs(50);
/// How often the end of a topic is looked at while a transaction is being settled.
const END_LOOK: Duration = Duration::from_millis(20);

/// The live records of a topic, key to value: those without a tombstone.
pub(crate) type Live = HashMap<Vec<u8>, Vec<u8>>;

/// Looks at Kafka without writing to it, over one connection.
pub(crate) struct Probe {
    consumer: Arc<BaseConsumer<Quiet>>,
    settings: Settings,
}

impl Probe {
    /// Makes the client; it connects when it is first used.
    pub(crate) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let consumer = Arc::new(consumer(settings, "read_committed")?);
        Ok(Self { consumer, settings: settings.clone() })
    }

    /// Checks that a broker answers and that the topics are there.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let (consumer, settings) = (Arc::clone(&self.consumer), self.settings.clone());
        blocking(move || {
            // Nothing is assigned, so this only takes away what the client has to say about its connections.
            while consumer.poll(Duration::ZERO).is_some() {}
            for table in TABLES {
                partitions(&consumer, &settings.topic(table.topic.name))?;
            }
            Ok(())
        })
        .await
    }
}

/// Reads every live record of a topic.
///
/// Guarantee: holds all that was committed before the call. A committed transaction's records become readable only when
/// the broker has written its marker, so the read waits until the stable end has reached the end seen at first.
pub(crate) async fn live(settings: &Settings, name: &str) -> anyhow::Result<Live> {
    let (settings, topic) = (settings.clone(), settings.topic(name));
    blocking(move || read_live(&settings, &topic).with_context(|| format!("read {topic} to its end"))).await
}

fn read_live(settings: &Settings, topic: &str) -> anyhow::Result<Live> {
    let deadline = Instant::now() + READ_WAIT;
    let consumer = consumer(settings, "read_committed")?;
    let unstable = self::consumer(settings, "read_uncommitted")?;
    let mut unread = partitions(&consumer, topic)?;
    let mut assignment = TopicPartitionList::new();
    for partition in &unread {
        let (_, high) = unstable.fetch_watermarks(topic, *partition, ANSWER_WAIT)?;
        while consumer.fetch_watermarks(topic, *partition, ANSWER_WAIT)?.1 < high {
            if Instant::now() > deadline {
                bail!("a transaction stays open");
            }
            // Nothing is assigned yet, so this only waits.
            consumer.poll(END_LOOK);
        }
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut live = Live::new();
    while !unread.is_empty() {
        if Instant::now() > deadline {
            bail!("the end does not come");
        }
        match consumer.poll(END_LOOK) {
            None => {}
            Some(Ok(record)) => {
                let key = record.key().unwrap_or_default();
                match record.payload() {
                    Some(value) => live.insert(key.to_vec(), value.to_vec()),
                    None => live.remove(key),
                };
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(live)
}

fn consumer(settings: &Settings, isolation: &str) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut config = settings.consumer("cdc-svc");
    config.set("enable.partition.eof", "true").set("isolation.level", isolation);
    config.create_with_context(Quiet).context("create a consumer")
}

fn partitions(consumer: &BaseConsumer<Quiet>, topic: &str) -> anyhow::Result<BTreeSet<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WAIT).context("ask for the partitions")?;
    let found: BTreeSet<i32> = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.id())
        .collect();
    if found.is_empty() {
        bail!("topic {topic} does not exist");
    }
    Ok(found)
}

/// Runs a step that blocks on a thread of its own. A step that panics takes its caller, and so the process,
/// with it.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    match tokio::task::spawn_blocking(step).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error).context("run a blocking step"),
        },
    }
}

//! What the update topics hold.

use crate::blocking::blocking;
use crate::envelope::TABLES;
use crate::mark::Mark;
use anyhow::{Context, bail};
use chassis::kafka::{EndReader, Quiet, Settings, Step, partitions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group whose notes hold the mark, and the name of our readers.
pub(crate) const GROUP: &str = "cdc-svc";
/// Partition whose offset carries the note; every topic has it.
const NOTED: i32 = 0;
/// Timeout after which the group's coordinator counts as away.
const NOTE_WAIT: Duration = Duration::from_secs(15);
/// Timeout of reading a topic to its end, beyond which Kafka counts as away.
const READ_WAIT: Duration = Duration::from_secs(50);

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
        let consumer = settings.consumer(GROUP).create_with_context(Quiet);
        Ok(Self { consumer: Arc::new(consumer.context("create a consumer")?), settings: settings.clone() })
    }

    /// Checks that a broker answers and that the topics are there.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let (consumer, settings) = (Arc::clone(&self.consumer), self.settings.clone());
        blocking(move || {
            // Nothing is assigned, so this only takes away what the client has to say about its connections.
            while consumer.poll(Duration::ZERO).is_some() {}
            for table in TABLES {
                let topic = settings.topic(table.topic.name);
                if partitions(&*consumer, &topic).context("ask for the partitions")?.is_empty() {
                    bail!("topic {topic} does not exist");
                }
            }
            Ok(())
        })
        .await
    }

    /// Reads the mark of the topics; none when there is none, or not for each of them.
    pub(crate) async fn mark(&self) -> anyhow::Result<Option<Mark>> {
        let (consumer, settings) = (Arc::clone(&self.consumer), self.settings.clone());
        blocking(move || {
            let held = consumer.committed_offsets(noted(&settings, None)?, NOTE_WAIT);
            let held = held.context("read how far the topics are")?;
            let mut marks = held.elements().into_iter().map(|one| one.metadata().parse().ok());
            let first: Option<Mark> = marks.next().flatten();
            Ok(first.filter(|first| marks.all(|other| other.as_ref() == Some(first))))
        })
        .await
    }
}

/// Lists the offsets that carry the mark, with the mark. Their numbers mean nothing: nobody reads on from
/// them.
pub(crate) fn noted(settings: &Settings, mark: Option<&Mark>) -> anyhow::Result<TopicPartitionList> {
    let mut notes = TopicPartitionList::new();
    for table in TABLES {
        let topic = settings.topic(table.topic.name);
        notes.add_partition_offset(&topic, NOTED, Offset::Offset(0)).context("list the notes")?;
        if let (Some(mark), Some(mut note)) = (mark, notes.find_partition(&topic, NOTED)) {
            note.set_metadata(mark.to_string());
        }
    }
    Ok(notes)
}

/// Reads every live record of a topic.
///
/// Guarantee: holds all that was committed before the call; see [`EndReader`].
pub(crate) async fn live(settings: &Settings, name: &str) -> anyhow::Result<Live> {
    let (settings, topic) = (settings.clone(), settings.topic(name));
    blocking(move || read_live(&settings, &topic).with_context(|| format!("read {topic} to its end"))).await
}

fn read_live(settings: &Settings, topic: &str) -> anyhow::Result<Live> {
    let deadline = Instant::now() + READ_WAIT;
    let mut reader = EndReader::open(settings, GROUP, topic)?;
    reader.add(&reader.partitions()?, i64::MAX)?;
    let mut live = Live::new();
    while !reader.is_done() {
        if Instant::now() > deadline {
            bail!("a transaction stays open, or the end does not come");
        }
        let Step::Record(record) = reader.step()? else { continue };
        let key = record.key().unwrap_or_default();
        match record.payload() {
            Some(value) => live.insert(key.to_vec(), value.to_vec()),
            None => live.remove(key),
        };
    }
    Ok(live)
}

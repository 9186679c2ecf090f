//! What the update topics hold.

use crate::blocking::blocking;
use crate::envelope::TABLES;
use anyhow::{Context, bail};
use chassis::kafka::{EndReader, Quiet, Settings, Step, partitions};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let consumer = settings.consumer("cdc-svc").create_with_context(Quiet);
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
    let mut reader = EndReader::open(settings, "cdc-svc", topic)?;
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

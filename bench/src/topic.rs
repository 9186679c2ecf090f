//! Topics that are filled beforehand, and how far a group has come.

use crate::readings::{Row, Workload};
use anyhow::{Context as _, Result, ensure};
use chassis::kafka::Settings;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use schema::ReadingCreatedEvent;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Timeout after which a broker on this machine counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A topic and its partitions.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Where Kafka is, and the prefix that names the topic's run.
    pub settings: Settings,
    /// With its prefix.
    pub name: String,
    partitions: i32,
}

impl Topic {
    /// Makes an empty topic; the broker dates its records when it appends them.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn create(settings: &Settings, name: &str, partitions: i32) -> Result<Self> {
        let name = settings.topic(name);
        let wanted = NewTopic::new(&name, partitions, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("retention.ms", "-1");
        for outcome in admin(settings)?.create_topics([&wanted], &AdminOptions::new()).await? {
            if let Err((name, code)) = outcome
                && code != RDKafkaErrorCode::TopicAlreadyExists
            {
                anyhow::bail!("the broker refuses the topic {name}: {code}");
            }
        }
        Ok(Self { settings: settings.clone(), name, partitions })
    }

    /// Returns how many partitions it has.
    #[must_use]
    pub const fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Deletes it and what it holds.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn delete(self) -> Result<()> {
        let outcomes = admin(&self.settings)?.delete_topics(&[&self.name], &AdminOptions::new()).await?;
        ensure!(outcomes.iter().all(Result::is_ok), "the broker does not delete {}", self.name);
        Ok(())
    }

    /// Appends these rows, one record each, as `encode` writes them.
    ///
    /// # Errors
    /// The broker did not take every record.
    pub async fn fill(
        &self,
        workload: &Arc<Workload>,
        rows: Range<i64>,
        encode: fn(&Row<'_>, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (topic, workload) = (self.clone(), Arc::clone(workload));
        tokio::task::spawn_blocking(move || topic.fill_blocking(&workload, rows, encode)).await?
    }

    fn fill_blocking(
        &self,
        workload: &Workload,
        rows: Range<i64>,
        encode: fn(&Row<'_>, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let producer: BaseProducer = self.settings.producer().create().context("create a producer")?;
        let wanted = rows.end - rows.start;
        let mut value = Vec::new();
        for number in rows {
            let row = workload.row(number);
            value.clear();
            encode(&row, &mut value)?;
            let mut record =
                BaseRecord::to(&self.name).key(&row.sensor.sensor_id).payload(&value).headers(headers());
            while let Err((error, refused)) = producer.send(record) {
                let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                ensure!(is_full, "fill {}: {error}", self.name);
                producer.poll(Duration::from_millis(10));
                record = refused;
            }
        }
        producer.flush(ANSWER_MAX).context("wait for the broker to take every record")?;
        let held = self.held()?;
        ensure!(held == wanted, "{} holds {held} records instead of {wanted}", self.name);
        Ok(())
    }

    /// Returns how many records it holds.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn held(&self) -> Result<i64> {
        let consumer: BaseConsumer = self.settings.client().create().context("create a Kafka client")?;
        let mut sum = 0;
        for partition in 0..self.partitions {
            let (low, high) = consumer.fetch_watermarks(&self.name, partition, ANSWER_MAX)?;
            sum += high - low;
        }
        Ok(sum)
    }

    /// Returns a view of a group that reads it; the group's full name is given.
    ///
    /// # Errors
    /// A client cannot be made.
    pub fn group(&self, group: &str) -> Result<Group> {
        let mut config = self.settings.client();
        config.set("group.id", group).set("enable.auto.commit", "false");
        let consumer = config.create().context("create a Kafka client")?;
        Ok(Group { topic: self.clone(), name: group.to_owned(), consumer: Arc::new(consumer) })
    }
}

/// Returns the headers that the gateway gives each reading.
pub fn headers() -> OwnedHeaders {
    OwnedHeaders::new().insert(Header { key: "schema", value: Some(ReadingCreatedEvent::SCHEMA) })
}

/// A consumer group, seen from outside.
#[derive(Clone)]
pub struct Group {
    topic: Topic,
    name: String,
    consumer: Arc<BaseConsumer>,
}

impl Group {
    /// Returns how many records the group has committed.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn committed(&self) -> Result<i64> {
        let group = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition_range(&group.topic.name, 0, group.topic.partitions - 1);
            let committed =
                group.consumer.committed_offsets(partitions, ANSWER_MAX).context("ask for offsets")?;
            let offsets = committed.elements().into_iter().map(|element| match element.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            });
            Ok(offsets.sum())
        })
        .await?
    }

    /// Forgets how far the group has come, once its members have left.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn forget(self) -> Result<()> {
        let outcomes =
            admin(&self.topic.settings)?.delete_groups(&[&self.name], &AdminOptions::new()).await?;
        ensure!(
            outcomes.iter().all(Result::is_ok),
            "the broker does not delete the group {}: {outcomes:?}",
            self.name
        );
        Ok(())
    }
}

fn admin(settings: &Settings) -> Result<AdminClient<DefaultClientContext>> {
    settings.client().create().context("create a Kafka admin client")
}

/// Encodes a row as the gateway does.
///
/// # Errors
/// Never; the signature is the one that filling takes.
pub fn event(row: &Row<'_>, value: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(value, &row.event()).context("encode a reading")
}

//! The topics of one test's own, a producer, and a reader that waits.

use chassis::kafka::Settings;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::util::Timeout;
use schema::topics::{self, Partitions};
use std::time::Duration;

/// Partitions of the co-partitioned topics in a test: more than one, so that order and ownership matter.
pub const SCALED_PARTITIONS: i32 = 4;

/// All topics of the map under a prefix of this test's own.
pub struct Kafka {
    /// `host:port` of the broker.
    pub bootstrap: String,
    /// Stands before every topic and group.
    pub prefix: String,
    producer: FutureProducer,
}

/// One record as a test sees it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its key; empty when there is none.
    pub key: Vec<u8>,
    /// Its value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
}

impl Record {
    fn of(record: &BorrowedMessage<'_>) -> Self {
        let headers = record.headers().map_or_else(Vec::new, |headers| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            headers.iter().map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default()))).collect()
        });
        Self {
            key: record.key().unwrap_or_default().to_vec(),
            value: record.payload().map(<[u8]>::to_vec),
            partition: record.partition(),
            offset: record.offset(),
            headers,
        }
    }

    /// Returns the value of a header.
    pub fn header(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the value as text.
    ///
    /// # Panics
    /// It is a tombstone or not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().expect("record is no tombstone")).unwrap()
    }
}

impl Kafka {
    /// Creates every topic of the map under a new prefix.
    ///
    /// # Panics
    /// The broker refuses it.
    pub async fn create() -> Self {
        Self::at(&crate::setting("TEST_KAFKA_BOOTSTRAP")).await
    }

    /// Creates every topic of the map under a new prefix, on that broker.
    ///
    /// # Panics
    /// The broker refuses it.
    pub async fn at(bootstrap: &str) -> Self {
        let prefix = crate::unique("t") + "-";
        let settings = Settings::local(bootstrap, &prefix);
        let admin: AdminClient<_> = settings.client().create().unwrap();
        let names: Vec<_> = topics::ALL.iter().map(|topic| settings.topic(topic.name)).collect();
        let configs: Vec<_> = topics::ALL.iter().map(topics::Topic::settings).collect();
        let wanted: Vec<_> = topics::ALL
            .iter()
            .zip(names.iter().zip(&configs))
            .map(|(topic, (name, config))| {
                let partitions = match topic.partitions {
                    Partitions::Scaled => SCALED_PARTITIONS,
                    Partitions::Single => 1,
                };
                let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
                config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        for outcome in admin.create_topics(&wanted, &AdminOptions::new()).await.unwrap() {
            outcome.unwrap();
        }
        // Created is not yet known to everybody: a reader that asks too early would find no partition.
        for name in &names {
            crate::wait::until(&format!("the partitions of {name}"), async || {
                let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(10)).ok()?;
                let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
                (partitions.filter(|partition| partition.leader() >= 0).count() > 0).then_some(())
            })
            .await;
        }
        let producer = settings.producer().create().unwrap();
        Self { bootstrap: bootstrap.to_owned(), prefix, producer }
    }

    /// Returns the settings that a service is given.
    pub fn settings(&self) -> Settings {
        Settings::local(&self.bootstrap, &self.prefix)
    }

    /// Produces one record and waits for the broker's acknowledgement.
    ///
    /// # Panics
    /// The broker refuses it.
    pub async fn produce(&self, topic: topics::Topic, key: &str, value: Option<&[u8]>) {
        self.produce_with_headers(topic, key, value, OwnedHeaders::new()).await;
    }

    /// Produces one record with headers and waits for the broker's acknowledgement.
    ///
    /// # Panics
    /// The broker refuses it.
    pub async fn produce_with_headers(
        &self,
        topic: topics::Topic,
        key: &str,
        value: Option<&[u8]>,
        headers: OwnedHeaders,
    ) {
        let name = self.settings().topic(topic.name);
        let mut record = FutureRecord::<str, [u8]>::to(&name).key(key).headers(headers);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record, Timeout::After(Duration::from_secs(30))).await.unwrap();
    }

    /// Counts the records that a topic of one-by-one producers has got, repetitions included.
    ///
    /// # Panics
    /// The broker refuses it.
    pub fn count(&self, topic: topics::Topic) -> i64 {
        let reader = self.read(topic);
        let assignment = reader.consumer.assignment().unwrap();
        let partitions = assignment.elements();
        let ends = partitions.iter().map(|one| {
            let wait = Duration::from_secs(30);
            reader.consumer.fetch_watermarks(&reader.topic, one.partition(), wait).unwrap()
        });
        ends.map(|(low, high)| high - low).sum()
    }

    /// Returns how many records of a topic a group has not committed, over all partitions.
    ///
    /// # Panics
    /// The broker refuses it.
    pub fn lag(&self, group: &str, topic: topics::Topic) -> i64 {
        const ANSWER_WAIT: Duration = Duration::from_secs(30);
        let (settings, name) = (self.settings(), self.settings().topic(topic.name));
        let consumer: BaseConsumer = settings.consumer(group).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&name), ANSWER_WAIT).unwrap();
        let mut asked = TopicPartitionList::new();
        metadata.topics()[0].partitions().iter().for_each(|partition| {
            asked.add_partition(&name, partition.id());
        });
        let committed = consumer.committed_offsets(asked, ANSWER_WAIT).unwrap();
        let lag = |one: &TopicPartitionListElem<'_>| {
            let (low, high) = consumer.fetch_watermarks(&name, one.partition(), ANSWER_WAIT).unwrap();
            let next = if let Offset::Offset(next) = one.offset() { next } else { low };
            high - next
        };
        committed.elements().iter().map(lag).sum()
    }

    /// Reads a topic from its beginning to the end that a `read_committed` consumer finds now.
    ///
    /// # Panics
    /// The broker refuses it, or the end does not come within [`crate::wait::PATIENCE`].
    pub async fn read_all(&self, topic: topics::Topic) -> Vec<Record> {
        let reader = self.reader(topic, true);
        let (mut records, mut ended) = (Vec::new(), 0);
        let deadline = tokio::time::Instant::now() + crate::wait::PATIENCE;
        while ended < reader.consumer.assignment().unwrap().count() {
            match tokio::time::timeout_at(deadline, reader.consumer.recv()).await.expect("the end comes") {
                Ok(record) => records.push(Record::of(&record)),
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                // librdkafka reconnects by itself; the deadline bounds the wait.
                Err(error) => eprintln!("{}: {error}", reader.topic),
            }
        }
        records
    }

    /// Reads a topic from its beginning, as a `read_committed` consumer without a group.
    ///
    /// # Panics
    /// The broker refuses it.
    pub fn read(&self, topic: topics::Topic) -> Reader {
        self.reader(topic, false)
    }

    fn reader(&self, topic: topics::Topic, tells_end: bool) -> Reader {
        let settings = self.settings();
        let name = settings.topic(topic.name);
        let tells_end = if tells_end { "true" } else { "false" };
        let consumer: StreamConsumer =
            settings.consumer("reader").set("enable.partition.eof", tells_end).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&name), Duration::from_secs(30)).unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            assignment.add_partition_offset(&name, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        Reader { consumer, topic: name }
    }
}

/// Reads one topic.
pub struct Reader {
    consumer: StreamConsumer,
    topic: String,
}

impl Reader {
    /// Waits for the next record.
    ///
    /// # Panics
    /// [`crate::wait::PATIENCE`] is over.
    pub async fn next(&self) -> Record {
        match self.next_within(crate::wait::PATIENCE).await {
            Some(record) => record,
            None => panic!("waited in vain for a record on {}", self.topic),
        }
    }

    /// Waits for the next record that satisfies `wanted`, passing over others.
    ///
    /// # Panics
    /// No record comes within [`crate::wait::PATIENCE`].
    pub async fn find(&self, mut wanted: impl FnMut(&Record) -> bool) -> Record {
        loop {
            let record = self.next().await;
            if wanted(&record) {
                return record;
            }
        }
    }

    /// Returns the next record, or none when the time is over.
    ///
    /// # Panics
    /// The broker reports an error that is not transient.
    pub async fn next_within(&self, patience: Duration) -> Option<Record> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match tokio::time::timeout_at(deadline, self.consumer.recv()).await {
                Err(_) => return None,
                // librdkafka reconnects by itself; the deadline bounds the wait.
                Ok(Err(error)) => eprintln!("{}: {error}", self.topic),
                Ok(Ok(record)) => return Some(Record::of(&record)),
            }
        }
    }
}

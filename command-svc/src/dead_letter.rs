//! Records that will never be rows → `iot-reading-dlq`.
//!
//! A letter that the topic refuses for good (too large, no right to write) goes again as its beginning; if
//! that is refused, too, it is counted and logged with its coordinates in the source topic, which keeps it
//! for its own time. Waiting instead would stop every reading behind it.

use crate::batch::{Rejected, decode};
use crate::metrics::Metrics;
use anyhow::Context;
use chassis::kafka::{Settings, headers_of, owned_headers};
use chassis::retry::Backoff;
use futures::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use schema::dead_letter::{DeadLetter, Origin};

/// Bytes of a value that a truncated letter keeps: enough to see what it is, and less than any sensible topic
/// takes.
const TRUNCATED_BYTES: usize = 64 << 10;
/// Bytes of the longest key that a truncated letter keeps whole; our keys are sensor ids.
const KEY_BYTES_MAX: usize = 1 << 10;

/// Sends dead letters and waits until they are durable. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
    metrics: Metrics,
}

impl DeadLetters {
    pub(crate) fn open(kafka: &Settings, metrics: Metrics) -> anyhow::Result<Self> {
        let producer = kafka.producer().create().context("create the dead letter producer")?;
        Ok(Self { producer, topic: kafka.topic(schema::topics::READING_DLQ.name), metrics })
    }

    /// Returns when Kafka has all of them for good, or has refused them for good. Kafka away means waiting,
    /// because the offset may not pass them.
    ///
    /// All at once: a device that sends a year of what is past retention must not slow down the others.
    pub(crate) async fn send_all(&self, rejected: &[Rejected]) {
        join_all(rejected.iter().map(|rejected| self.send(rejected))).await;
        // One line, because a fault of a device comes in thousands; each letter has its own coordinates and
        // reason.
        if let Some(Rejected { record, reason, detail, .. }) = rejected.first() {
            let reason = reason.as_str();
            let (count, partition, offset) = (rejected.len(), record.partition(), record.offset());
            tracing::warn!(
                count,
                partition,
                offset,
                reason,
                detail,
                "records are dead letters; the first is named"
            );
        }
    }

    async fn send(&self, rejected: &Rejected) {
        let record = &rejected.record;
        let letter = letter_of(rejected);
        if self.try_to_send(record, owned_headers(letter.headers())).await.is_ok() {
            self.metrics.dead_letters.inc();
            return;
        }
        let beginning = beginning_of(record);
        let truncated_from_bytes = record.payload().map(|value| value.len() as u64);
        // Its own headers may be what makes it too large.
        let letter = DeadLetter { truncated_from_bytes, source_headers: Vec::new(), ..letter };
        let marked = owned_headers(letter.headers());
        match self.try_to_send(&beginning, marked).await {
            Ok(()) => self.metrics.dead_letters.inc(),
            Err(error) => {
                self.metrics.dead_letters_lost.inc();
                let (partition, offset) = (record.partition(), record.offset());
                let reason = rejected.reason.as_str();
                // The source topic still has it, at these coordinates.
                tracing::error!(partition, offset, reason, %error, "dead letter is refused for good and dropped");
            }
        }
    }

    /// Tries until Kafka has the letter, or refuses it for good.
    async fn try_to_send(&self, record: &OwnedMessage, headers: OwnedHeaders) -> Result<(), KafkaError> {
        let mut backoff = Backoff::default();
        loop {
            let letter = FutureRecord::<[u8], [u8]> {
                topic: &self.topic,
                partition: None,
                payload: record.payload(),
                key: record.key(),
                timestamp: None,
                headers: Some(headers.clone()),
            };
            match self.producer.send(letter, Timeout::Never).await {
                Ok(_) => return Ok(()),
                Err((error, _)) if is_refusal(&error) => return Err(error),
                Err((error, _)) => {
                    tracing::warn!(%error, "dead letter is not accepted; trying again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }
}

/// Says whether the same letter would be refused again, however often it is sent.
fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, InvalidRecord, InvalidTimestamp, InvalidTopic, MessageSizeTooLarge,
        PolicyViolation, TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            ClusterAuthorizationFailed
                | InvalidRecord
                | InvalidTimestamp
                | InvalidTopic
                | MessageSizeTooLarge
                | PolicyViolation
                | TopicAuthorizationFailed
                | UnknownTopic
                | UnknownTopicOrPartition
        )
    )
}

/// Returns what of a record fits into any topic: its coordinates, and the beginning of its value, without its
/// headers.
fn beginning_of(record: &OwnedMessage) -> OwnedMessage {
    let part = |bytes: &[u8]| bytes[..bytes.len().min(TRUNCATED_BYTES)].to_vec();
    OwnedMessage::new(
        record.payload().map(part),
        record.key().filter(|key| key.len() <= KEY_BYTES_MAX).map(<[u8]>::to_vec),
        record.topic().to_owned(),
        record.timestamp(),
        record.partition(),
        record.offset(),
        None,
    )
}

/// Says why the record is a dead letter, where it stands, and which event it is if it is a reading.
fn letter_of(rejected: &Rejected) -> DeadLetter {
    let record = &rejected.record;
    let own = headers_of(record).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
    DeadLetter {
        origin: Some(Origin {
            topic: record.topic().to_owned(),
            place: Some((record.partition(), record.offset())),
        }),
        event_id: decode(record.payload()).ok().map(|reading| reading.event_id),
        source_headers: own.collect(),
        ..DeadLetter::new(rejected.reason.as_str(), rejected.detail.as_str())
    }
}

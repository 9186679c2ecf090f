//! Records that will never be rows → `iot-reading-dlq`.
//!
//! A letter that the topic refuses for good (too large, no right to write) goes again as its beginning; if
//! that is refused, too, it is counted and logged with its coordinates in the source topic, which keeps it
//! for its own time. Waiting instead would stop every reading behind it.

use crate::batch::{Rejected, decode};
use crate::metrics::Metrics;
use anyhow::Context;
use chassis::kafka::{Settings, dead_letter_headers};
use chassis::retry::Backoff;
use futures::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

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
        if let Some(Rejected { record, reason, .. }) = rejected.first() {
            let (count, partition, offset) = (rejected.len(), record.partition(), record.offset());
            tracing::warn!(count, partition, offset, reason, "records are dead letters; the first is named");
        }
    }

    async fn send(&self, rejected: &Rejected) {
        let Rejected { record, reason, .. } = rejected;
        let whole = headers(record, record, reason);
        if self.try_to_send(record, whole).await.is_ok() {
            self.metrics.dead_letters.inc();
            return;
        }
        let beginning = beginning_of(record);
        let bytes = record.payload().map_or(0, <[u8]>::len).to_string();
        let marked = headers(record, &beginning, reason)
            .insert(Header { key: "truncated-from-bytes", value: Some(&bytes) });
        match self.try_to_send(&beginning, marked).await {
            Ok(()) => self.metrics.dead_letters.inc(),
            Err(error) => {
                self.metrics.dead_letters_lost.inc();
                let (partition, offset) = (record.partition(), record.offset());
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

/// Beside what every dead letter says of `letter`, the event id of a record that is a reading.
fn headers(record: &OwnedMessage, letter: &OwnedMessage, reason: &str) -> OwnedHeaders {
    let headers = dead_letter_headers(letter, reason);
    match decode(record.payload()) {
        Ok(reading) => {
            headers.insert(Header { key: "event-id", value: Some(reading.event_id.to_string().as_bytes()) })
        }
        Err(_) => headers,
    }
}

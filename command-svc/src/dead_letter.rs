//! Records that will never be rows → `iot-reading-dlq`.
//!
//! A letter that the topic refuses for good (too large, no right to write) goes again as its beginning; if
//! that is refused, too, it is counted and logged with its coordinates in the source topic, which keeps it
//! for its own time. Waiting instead would stop every reading behind it.

use crate::batch::{Rejected, decode};
use crate::metrics::Metrics;
use anyhow::Context;
use chassis::admin::Latch;
use chassis::kafka::{Settings, headers_of, owned_headers};
use chassis::retry::{Disposition, Supervisor};
use futures::future::join_all;
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use schema::dead_letter::{DeadLetter, Origin};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a value that a truncated letter keeps: enough to see what it is, and less than any sensible topic
/// takes.
const TRUNCATED_BYTES: usize = 64 << 10;
/// Bytes of the longest key that a truncated letter keeps whole; our keys are sensor ids.
const KEY_BYTES_MAX: usize = 1 << 10;

/// Time without an acknowledgement after which the topic counts as away. Kafka takes milliseconds; the
/// producer itself gives up after half a minute.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(5);

/// Sends dead letters and waits until they are durable. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
    metrics: Metrics,
    outage: Arc<Outage>,
}

/// Letters that wait for a topic that is away; the latch is closed while there are any.
struct Outage {
    waiting: Mutex<usize>,
    latch: Latch,
}

/// A letter that waits; it waits no more when this is dropped.
struct Waiting<'a>(&'a Outage);

impl Outage {
    fn begin(&self) -> Waiting<'_> {
        self.count(|waiting| waiting + 1);
        Waiting(self)
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        let mut waiting = self.waiting.lock();
        *waiting = change(*waiting);
        // Under the lock, so that the last word of several letters is true.
        if *waiting == 0 { self.latch.open() } else { self.latch.close() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count(|waiting| waiting - 1);
    }
}

impl DeadLetters {
    /// Opens the latch, which is closed while letters wait for their topic.
    pub(crate) fn open(kafka: &Settings, metrics: Metrics, latch: Latch) -> anyhow::Result<Self> {
        let producer = kafka.producer().create().context("create the dead letter producer")?;
        latch.open();
        let outage = Arc::new(Outage { waiting: Mutex::new(0), latch });
        Ok(Self { producer, topic: kafka.topic(schema::topics::READING_DLQ.name), metrics, outage })
    }

    /// Says whether letters wait for their topic: the offsets of their partitions cannot move.
    pub(crate) fn is_away(&self) -> bool {
        *self.outage.waiting.lock() > 0
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
        let mut supervisor = Supervisor::new("dead letter is not accepted; trying again");
        let mut waiting = None;
        loop {
            let letter = FutureRecord::<[u8], [u8]> {
                topic: &self.topic,
                partition: None,
                payload: record.payload(),
                key: record.key(),
                timestamp: None,
                headers: Some(headers.clone()),
            };
            let mut sent = pin!(self.producer.send(letter, Timeout::Never));
            let outcome = match timeout(ACKNOWLEDGEMENT_WAIT, &mut sent).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    waiting.get_or_insert_with(|| self.outage.begin());
                    sent.await
                }
            };
            let outcome = outcome.map(drop).map_err(|(error, _)| error);
            if outcome.as_ref().is_err_and(|error| disposition(error) == Disposition::Retry) {
                waiting.get_or_insert_with(|| self.outage.begin());
            }
            if let ControlFlow::Break(outcome) = supervisor.after(outcome, disposition).await {
                return outcome;
            }
        }
    }
}

/// Tells a letter that would be refused again, however often it is sent, from a Kafka that is away.
fn disposition(error: &KafkaError) -> Disposition {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, InvalidRecord, InvalidTimestamp, InvalidTopic, MessageSizeTooLarge,
        PolicyViolation, TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition,
    };
    match error.rdkafka_error_code() {
        Some(
            ClusterAuthorizationFailed
            | InvalidRecord
            | InvalidTimestamp
            | InvalidTopic
            | MessageSizeTooLarge
            | PolicyViolation
            | TopicAuthorizationFailed
            | UnknownTopic
            | UnknownTopicOrPartition,
        ) => Disposition::DeadLetter,
        _ => Disposition::Retry,
    }
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

//! Records → Kafka. A record's slot is completed by Kafka's delivery report (acks=all), not before.
//!
//! Delivery reports come in on the producer's own thread, which completes the slot directly: no future, no channel and no
//! task per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use chassis::admin::Latch;
use chassis::kafka::Settings;
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use schema::{ReadingCreatedEvent, Timestamp, topics};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::window::{Outcome, Slot};

/// How long the probe waits for a broker's answer.
const PROBE_WAIT: Duration = Duration::from_secs(3);

/// What is to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An encoded [`ReadingCreatedEvent`].
    Reading(Vec<u8>),
    /// A payload that no reading could be made of.
    DeadLetter(Box<DeadLetter>),
}

impl Record {
    /// Bytes of its value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Reading(event) => event.len(),
            Self::DeadLetter(letter) => letter.payload.len(),
        }
    }
}

/// A payload as it came, and why it is kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The original bytes.
    pub(crate) payload: Vec<u8>,
    /// The short name of what was wrong.
    pub(crate) reason: &'static str,
    /// The same in words.
    pub(crate) detail: String,
    /// The codec that the device is registered with.
    pub(crate) codec: String,
    /// Where it was published.
    pub(crate) mqtt_topic: String,
    /// When it was read.
    pub(crate) received_at: Timestamp,
}

/// Says why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// The producer's queue is full: wait, then try again with the same slot.
    Full(Slot),
    /// The producer will never take it.
    Broken,
}

/// Writes both topics of the gateway.
#[derive(Clone)]
pub(crate) struct Publisher {
    producer: ThreadedProducer<Reports>,
    readings: Arc<str>,
    dead_letters: Arc<str>,
    health: Arc<Health>,
}

/// What the producer's thread knows about Kafka.
struct Health {
    is_up: AtomicBool,
    latch: Latch,
    /// Cancelled when the producer cannot be used any more.
    broken: CancellationToken,
}

impl Health {
    fn up(&self) {
        if !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!("Kafka takes records");
            self.latch.open();
        }
    }

    fn down(&self, error: &KafkaError) {
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "Kafka does not take records");
            self.latch.close();
        }
    }
}

/// Receives delivery reports.
struct Reports {
    health: Arc<Health>,
    metrics: Metrics,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(%error, reason, "the producer is broken");
                self.health.broken.cancel();
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.down(&error),
            _ => tracing::debug!(%error, reason, "Kafka client"),
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
        match result {
            Ok(_) => {
                self.health.up();
                slot.complete(Outcome::Stored);
            }
            Err((error, _)) => {
                self.health.down(error);
                self.metrics.produce_failures.inc();
                slot.complete(Outcome::Failed);
            }
        }
    }
}

impl Publisher {
    /// Makes the producer; `latch` is open while Kafka takes records.
    ///
    /// # Errors
    /// The settings cannot be used (stop).
    pub(crate) fn new(settings: &Settings, metrics: &Metrics, latch: Latch) -> anyhow::Result<Self> {
        let health =
            Arc::new(Health { is_up: AtomicBool::new(false), latch, broken: CancellationToken::new() });
        let reports = Reports { health: health.clone(), metrics: metrics.clone() };
        let producer = ThreadedProducer::from_config_and_context(&settings.producer(), reports)
            .context("create the producer")?;
        Ok(Self {
            producer,
            readings: settings.topic(topics::READINGS.name).into(),
            dead_letters: settings.topic(topics::PRODUCER_DLQ.name).into(),
            health,
        })
    }

    /// Hands a record over. Its slot is completed later, exactly once; never blocks.
    ///
    /// # Errors
    /// [`NotTaken`] says what to do.
    pub(crate) fn produce(&self, sensor_id: &str, record: &Record, slot: Slot) -> Result<(), NotTaken> {
        let (topic, payload, headers) = match record {
            Record::Reading(event) => (&self.readings, event, reading_headers()),
            Record::DeadLetter(letter) => (&self.dead_letters, &letter.payload, dead_letter_headers(letter)),
        };
        let base = BaseRecord::with_opaque_to(topic, Box::new(slot))
            .key(sensor_id)
            .payload(payload.as_slice())
            .headers(headers);
        self.producer.send(base).map_err(|(error, base)| {
            let slot = *base.delivery_opaque;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => NotTaken::Full(slot),
                _ => {
                    self.health.down(&error);
                    NotTaken::Broken
                }
            }
        })
    }

    /// Asks a broker for both topics; with no traffic, this is what opens the latch. Blocks for up to [`PROBE_WAIT`] each.
    pub(crate) fn probe(&self) {
        for topic in [&self.readings, &self.dead_letters] {
            match self.producer.client().fetch_metadata(Some(topic), PROBE_WAIT) {
                Ok(metadata) if metadata.topics().iter().all(|topic| topic.error().is_none()) => {}
                Ok(_) => {
                    let missing = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
                    return self.health.down(&missing);
                }
                Err(error) => return self.health.down(&error),
            }
        }
        self.health.up();
    }

    /// Tells whether Kafka took records when it was last heard of.
    pub(crate) fn is_up(&self) -> bool {
        self.health.is_up.load(Ordering::Relaxed)
    }

    /// Resolves when the producer cannot be used any more; only a restart helps then.
    pub(crate) async fn broken(&self) {
        self.health.broken.cancelled().await;
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("readings", &self.readings).finish_non_exhaustive()
    }
}

fn reading_headers() -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(1)
        .insert(Header { key: "schema", value: Some(ReadingCreatedEvent::SCHEMA) })
}

fn dead_letter_headers(letter: &DeadLetter) -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(5)
        .insert(Header { key: "reason", value: Some(letter.reason) })
        .insert(Header { key: "detail", value: Some(&letter.detail) })
        .insert(Header { key: "codec", value: Some(&letter.codec) })
        .insert(Header { key: "topic", value: Some(&letter.mqtt_topic) })
        .insert(Header { key: "received_at", value: Some(&letter.received_at.to_string()) })
}

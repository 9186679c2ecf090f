//! Records → Kafka, or the spool. A record's handle is completed by Kafka's delivery report (acks=all) or by the spool's group
//! that is on disk, not before.
//!
//! Failover reports come in on the producer's own thread, which completes the handle directly: no future, no channel and no
//! task per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use chassis::admin::Latch;
use chassis::kafka::Settings;
use prometheus::IntGauge;
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use schema::{ReadingCreatedEvent, Timestamp, topics};
use tokio_util::sync::CancellationToken;

use crate::durable::failover::{DirectSeq, Failover};
use crate::durable::forwarder::{Batch, Pace};
use crate::durable::in_flight::{AckHandle, Outcome};
use crate::durable::spool;
use crate::metrics::Metrics;

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
    /// The producer's queue is full: wait, then try again with the same handle.
    Full(AckHandle),
    /// The producer will never take it.
    Broken,
}

/// Writes both topics of the gateway.
#[derive(Clone)]
pub(crate) struct Producer {
    client: ThreadedProducer<Reports>,
    readings: Arc<str>,
    dead_letters: Arc<str>,
    /// Of every reading; each takes a copy.
    reading_headers: OwnedHeaders,
    health: Arc<Health>,
    metrics: Metrics,
    failover: Option<Arc<Failover>>,
    pace: Arc<Pace>,
}

/// What a delivery report is about.
pub(crate) enum DeliveryOf {
    /// A record that nobody keeps: without a spool.
    Only(AckHandle),
    /// A record whose copy is kept.
    Copy(DirectSeq),
    /// A record of the spool.
    Forwarded(Arc<Batch>, usize),
}

/// What the producer did not take, with what it was to report.
type Unsent = (KafkaError, Box<DeliveryOf>);

/// What the producer's thread knows about Kafka.
struct Health {
    is_up: AtomicBool,
    /// None when a spool stands in for Kafka: then its absence is no reason to be unready.
    latch: Option<Latch>,
    gauge: IntGauge,
    /// Cancelled when the producer cannot be used any more.
    broken: CancellationToken,
}

impl Health {
    fn up(&self) {
        // Asked with each report: reading it takes no cache line from another core.
        if !self.is_up.load(Ordering::Relaxed) && !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!("Kafka takes records");
            self.gauge.set(1);
            self.latch.iter().for_each(Latch::open);
        }
    }

    fn down(&self, error: &KafkaError) {
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "Kafka does not take records; the devices stay as they were last known");
            self.gauge.set(0);
            self.latch.iter().for_each(Latch::close);
        }
    }
}

/// Receives delivery reports.
pub(crate) struct Reports {
    health: Arc<Health>,
    metrics: Metrics,
    failover: Option<Arc<Failover>>,
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
    type DeliveryOpaque = Box<DeliveryOf>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Box<DeliveryOf>) {
        let error = match result {
            Ok(_) => {
                self.health.up();
                None
            }
            Err((error, _)) => {
                // What is purged was given up before.
                if !is_purge(error) {
                    // Who refuses one record takes others.
                    if !is_refusal(error) {
                        self.health.down(error);
                    }
                    self.metrics.produce_failures.inc();
                }
                Some(error)
            }
        };
        match (*opaque, &self.failover) {
            (DeliveryOf::Only(handle), _) => {
                handle.complete(if error.is_none() { Outcome::Stored } else { Outcome::Failed });
            }
            (DeliveryOf::Forwarded(batch, index), _) => batch.report(index, error),
            (DeliveryOf::Copy(seq), Some(failover)) => match error {
                None => failover.acknowledged(seq),
                Some(error) if is_refusal(error) => failover.refused(seq),
                Some(_) => failover.failed(seq),
            },
            // No copy is kept without a spool.
            (DeliveryOf::Copy(_), None) => {}
        }
    }
}

/// Says whether the record itself is what Kafka does not want: another try would end the same.
pub(crate) fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidRecord, InvalidTimestamp, MessageSizeTooLarge};
    matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | InvalidRecord | InvalidTimestamp))
}

fn is_purge(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{PurgeInflight, PurgeQueue};
    matches!(error.rdkafka_error_code(), Some(PurgeQueue | PurgeInflight))
}

impl Producer {
    /// Makes the producer; `latch` is open while Kafka takes records. With a spool, [`Producer::run_spool`] must run.
    ///
    /// # Errors
    /// The settings cannot be used (stop).
    pub(crate) fn new(
        settings: &Settings,
        metrics: &Metrics,
        latch: Option<Latch>,
        failover: Option<Failover>,
    ) -> anyhow::Result<Self> {
        let health = Arc::new(Health {
            is_up: AtomicBool::new(false),
            latch,
            gauge: metrics.kafka_up.clone(),
            broken: CancellationToken::new(),
        });
        let failover = failover.map(Arc::new);
        let reports =
            Reports { health: health.clone(), metrics: metrics.clone(), failover: failover.clone() };
        let mut config = settings.producer();
        if failover.is_some() {
            // The patience says when a record is given up. A producer that gave up one by itself could still deliver the next.
            config.set("message.timeout.ms", "0");
        }
        let client =
            ThreadedProducer::from_config_and_context(&config, reports).context("create the producer")?;
        Ok(Self {
            client,
            readings: settings.topic(topics::READINGS.name).into(),
            dead_letters: settings.topic(topics::PRODUCER_DLQ.name).into(),
            reading_headers: owned(&reading_headers()),
            health,
            metrics: metrics.clone(),
            failover,
            pace: Arc::default(),
        })
    }

    /// Hands a record over. Its handle is completed later, exactly once; never blocks.
    ///
    /// # Errors
    /// [`NotTaken`] says what to do.
    pub(crate) fn produce(
        &self,
        sensor_id: &str,
        record: &Record,
        handle: AckHandle,
    ) -> Result<(), NotTaken> {
        let (topic, payload) = match record {
            Record::Reading(event) => (&self.readings, event),
            Record::DeadLetter(letter) => (&self.dead_letters, &letter.payload),
        };
        let Some(failover) = &self.failover else {
            let headers = match record {
                Record::Reading(_) => self.reading_headers.clone(),
                Record::DeadLetter(letter) => owned(&dead_letter_headers(letter)),
            };
            let opaque = Box::new(DeliveryOf::Only(handle));
            return self.send_parts(topic, sensor_id, payload, headers, opaque).map_err(|(error, opaque)| {
                match *opaque {
                    DeliveryOf::Only(handle) => self.not_taken(&error, handle),
                    DeliveryOf::Copy(_) | DeliveryOf::Forwarded(..) => NotTaken::Broken,
                }
            });
        };
        let headers = match record {
            Record::Reading(_) => reading_headers(),
            Record::DeadLetter(letter) => dead_letter_headers(letter),
        };
        let bytes = spool::Record::bytes_of(topic, sensor_id, &headers, payload.len());
        if !failover.has_room(sensor_id, bytes) {
            return Err(NotTaken::Full(handle));
        }
        let copy = spool::Record {
            topic: topic.clone(),
            sensor_id: sensor_id.into(),
            headers,
            payload: payload.clone(),
        };
        let produce = |seq, record: &spool::Record| {
            self.send(record, DeliveryOf::Copy(seq)).map_err(|(error, _)| error)
        };
        failover.produce(copy, handle, produce, |error, handle| self.not_taken(&error, handle))
    }

    fn not_taken(&self, error: &KafkaError, handle: AckHandle) -> NotTaken {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => NotTaken::Full(handle),
            _ => {
                self.health.down(error);
                NotTaken::Broken
            }
        }
    }

    /// Gives a record to the producer.
    pub(crate) fn send(&self, record: &spool::Record, opaque: DeliveryOf) -> Result<(), Unsent> {
        let spool::Record { topic, sensor_id, headers, payload } = record;
        self.send_parts(topic, sensor_id, payload, owned(headers), Box::new(opaque))
    }

    fn send_parts(
        &self,
        topic: &str,
        sensor_id: &str,
        payload: &[u8],
        headers: OwnedHeaders,
        opaque: Box<DeliveryOf>,
    ) -> Result<(), Unsent> {
        let base = BaseRecord::with_opaque_to(topic, opaque).key(sensor_id).payload(payload).headers(headers);
        self.client.send(base).map_err(|(error, base)| (error, base.delivery_opaque))
    }

    /// The topic of what no reading can be made of.
    pub(crate) fn dead_letters(&self) -> &Arc<str> {
        &self.dead_letters
    }

    pub(crate) fn client(&self) -> &ThreadedProducer<Reports> {
        &self.client
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(crate) fn failover(&self) -> Option<&Failover> {
        self.failover.as_deref()
    }

    /// Asks a broker for both topics; with no traffic, this is what opens the latch. Blocks for up to [`PROBE_WAIT`] each.
    pub(crate) fn probe(&self) {
        for topic in [&self.readings, &self.dead_letters] {
            match self.client.client().fetch_metadata(Some(topic), PROBE_WAIT) {
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

    /// Tells whether records are durable soon: Kafka took them when it was last heard of, or the spool does.
    pub(crate) fn is_up(&self) -> bool {
        match &self.failover {
            Some(failover) => {
                !failover.is_spooling() || failover.spool().status().health == spool::Health::Ready
            }
            None => self.is_kafka_up(),
        }
    }

    /// Tells whether Kafka answered when it was last heard of.
    pub(crate) fn is_kafka_up(&self) -> bool {
        self.health.is_up.load(Ordering::Relaxed)
    }

    /// Has no more patience with Kafka; false when there is no spool to turn to.
    pub(crate) fn give_up(&self) -> bool {
        self.failover().map(Failover::give_up).is_some()
    }

    /// Closes the spool: what is in it stays for the next run.
    pub(crate) async fn close(&self) {
        if let Some(failover) = &self.failover {
            failover.spool().close().await;
        }
    }

    /// Resolves when the producer or the spool cannot be used any more, and says which; only a restart helps
    /// then.
    pub(crate) async fn broken(&self) -> &'static str {
        let spool = async {
            match &self.failover {
                Some(failover) => failover.spool().broken().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.health.broken.cancelled() => "the producer cannot be used any more",
            () = spool => "the spool's thread panicked",
        }
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("readings", &self.readings).finish_non_exhaustive()
    }
}

/// Headers as the producer takes them.
fn owned(headers: &[(String, Vec<u8>)]) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(empty, |owned, (key, value)| owned.insert(Header { key, value: Some(value) }))
}

fn reading_headers() -> Vec<(String, Vec<u8>)> {
    vec![header("schema", ReadingCreatedEvent::SCHEMA)]
}

fn dead_letter_headers(letter: &DeadLetter) -> Vec<(String, Vec<u8>)> {
    vec![
        header("reason", letter.reason),
        header("detail", &letter.detail),
        header("codec", &letter.codec),
        header("topic", &letter.mqtt_topic),
        header("received_at", &letter.received_at.to_string()),
    ]
}

pub(crate) fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

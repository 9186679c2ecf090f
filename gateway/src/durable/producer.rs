//! Records → Kafka, or the spool. A record's handle is completed by Kafka's delivery report (acks=all) or by
//! the spool's group that is on disk, not before.
//!
//! Reports of delivery come in on the producer's own thread, which completes the handle directly: no future,
//! no channel and no task per message.

use crate::durable::failover::Failover;
use crate::durable::in_flight::AckHandle;
use crate::durable::record::{NotTaken, Record, letter_headers, reading_headers};
use crate::durable::report::{Batch, DeliveryOf, Health, Produced, Reports};
use crate::durable::spool::{self, Seq};
use crate::metrics::Metrics;
use anyhow::Context;
use chassis::admin::Latch;
use chassis::kafka::Settings;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use schema::topics;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long the probe waits for a broker's answer.
const PROBE_WAIT: Duration = Duration::from_secs(3);

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
}

/// The wait before a full queue is tried again.
const QUEUE_WAIT: Duration = Duration::from_millis(5);

/// What the producer did not take, with what it was to report.
type Unsent = (KafkaError, Box<DeliveryOf>);

impl Producer {
    /// Makes the producer; `latch` is open while Kafka takes records. With a spool, its forwarder must run.
    ///
    /// # Errors
    /// The settings cannot be used (stop).
    pub(crate) fn new(
        settings: &Settings,
        metrics: &Metrics,
        latch: Option<Latch>,
        failover: Option<Arc<Failover>>,
    ) -> anyhow::Result<Self> {
        let health = Arc::new(Health::new(latch, metrics.kafka_up.clone()));
        let reports = Reports::new(health.clone(), metrics.clone(), failover.clone());
        let mut config = settings.producer();
        if failover.is_some() {
            // The patience says when a record is given up. A producer that gave up one by itself could still
            // deliver the next.
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
            Record::DeadLetter(_, payload) => (&self.dead_letters, payload),
        };
        let Some(failover) = &self.failover else {
            let headers = match record {
                Record::Reading(_) => self.reading_headers.clone(),
                Record::DeadLetter(letter, _) => owned(&letter_headers(letter)),
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
            Record::DeadLetter(letter, _) => letter_headers(letter),
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

    /// Produces records in order and waits for all reports.
    pub(crate) async fn produce_all(&self, records: &[(Seq, spool::Record)]) -> Produced {
        let batch = Batch::new(records.len());
        'records: for (index, (_, record)) in records.iter().enumerate() {
            loop {
                match self.send(record, DeliveryOf::Forwarded(batch.clone(), index)) {
                    Ok(()) => break,
                    Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                        sleep(QUEUE_WAIT).await;
                    }
                    Err((error, _)) => {
                        // None behind it may overtake it.
                        (index..records.len()).for_each(|index| batch.report(index, Some(&error)));
                        break 'records;
                    }
                }
            }
        }
        batch.produced(records.len()).await
    }

    /// Names the topic of payloads that are no reading.
    pub(crate) fn dead_letters(&self) -> &Arc<str> {
        &self.dead_letters
    }

    /// Has the client forget what it has not produced; its reports follow. Blocks.
    pub(crate) fn purge(&self) {
        self.client.purge(PurgeConfig::default().queue().inflight());
    }

    /// Tells whether the client still owes reports.
    pub(crate) fn owes_reports(&self) -> bool {
        self.client.in_flight_count() > 0
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Asks a broker for both topics; with no traffic, this is what opens the latch. Blocks for up to
    /// [`PROBE_WAIT`] each.
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
        self.health.is_up()
    }

    /// Has no more patience with Kafka; false when there is no spool to turn to.
    pub(crate) fn give_up(&self) -> bool {
        self.failover.as_ref().map(|failover| failover.give_up()).is_some()
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
            () = self.health.broken() => "the producer cannot be used any more",
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

//! The open transaction: alerts → `iot-alerts` and episodes → `iot-alert-state`, committed together with the
//! offsets of their readings.

use crate::GROUP;
use crate::batch::{Batch, Span};
use crate::consumer::ReadingsConsumer;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::shared::Shared;
use anyhow::Context;
use chassis::kafka::TransactionalProducer;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use schema::{Alert, Episode, EpisodeKey, Timestamp, topics};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest open transaction, after which the broker aborts it; readers wait for it until then. A batch takes
/// a tenth of a second.
const TRANSACTION_MAX: Duration = Duration::from_secs(10);
/// Shortest time between two warnings about readings that cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Holds the producer and what its open transaction is made of.
pub(crate) struct Transaction {
    producer: TransactionalProducer,
    alerts: String,
    state: String,
    /// What is in it.
    pub(crate) batch: Batch,
    metrics: Metrics,
    /// When undecodable records were last warned about, and how many there were since.
    warned: Option<Instant>,
    undecodable: u64,
}

impl Transaction {
    /// Starts the producer; a transaction that an earlier one of this name has left open is aborted.
    pub(crate) fn start(shared: &Shared) -> Result<Self, Failure> {
        let kafka = &shared.config.kafka;
        let id = format!("{GROUP}-{}", shared.config.instance_id);
        let mut config = kafka.transactional_producer(&id, TRANSACTION_MAX);
        // The commit flushes; waiting for more records would only delay the alert.
        let producer = TransactionalProducer::start(config.set("linger.ms", "0"))?;
        Ok(Self {
            producer,
            alerts: kafka.topic(topics::ALERTS.name),
            state: kafka.topic(topics::ALERT_STATE.name),
            batch: Batch::default(),
            metrics: shared.metrics.clone(),
            warned: None,
            undecodable: 0,
        })
    }

    /// Begins a transaction unless one is open.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        if !self.batch.is_open() {
            self.producer.begin()?;
            self.batch.opened = Some(Instant::now());
        }
        Ok(())
    }

    /// Produces an alert into the reading's own partition, so that its next owner restores the alert.
    pub(crate) fn send(
        &mut self,
        alert: &Alert,
        partition: i32,
        received_at: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let value = serde_json::to_vec(alert).context("encode an alert").map_err(Failure::Stop)?;
        let schema = Header { key: "schema", value: Some(Alert::SCHEMA) };
        let record = BaseRecord::<[u8], [u8]>::to(&self.alerts)
            .partition(partition)
            .key(alert.sensor_id.as_bytes())
            .payload(&value)
            .headers(OwnedHeaders::new().insert(schema));
        self.producer.send(record)?;
        self.batch.add_alert(alert, received_at, Instant::now());
        Ok(())
    }

    /// Produces a change of an episode into the partition of its sensor's readings; none is a tombstone.
    pub(crate) fn send_state(
        &mut self,
        key: &EpisodeKey,
        episode: Option<&Episode>,
        partition: i32,
    ) -> Result<(), Failure> {
        let key = key.to_string();
        let encoded = episode.map(serde_json::to_vec).transpose();
        let value = encoded.context("encode an episode").map_err(Failure::Stop)?;
        let schema = Header { key: "schema", value: Some(Episode::SCHEMA) };
        let record = BaseRecord::<[u8], [u8]>::to(&self.state)
            .partition(partition)
            .key(key.as_bytes())
            .headers(OwnedHeaders::new().insert(schema));
        let record = match &value {
            Some(value) => record.payload(value.as_slice()),
            None => record,
        };
        Ok(self.producer.send(record)?)
    }

    /// Commits alerts, episodes and offsets.
    pub(crate) fn commit(
        &mut self,
        consumer: &ReadingsConsumer,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let nexts = self.batch.spans.iter().map(|(partition, span)| (*partition, span.next)).collect();
        self.producer.commit(Some((&consumer.list(&nexts)?, group)))?;
        let batch = std::mem::take(&mut self.batch);
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        self.count(batch);
        Ok(())
    }

    /// Aborts, and returns where its readings began and ended.
    pub(crate) fn abort(&mut self) -> Result<BTreeMap<i32, Span>, Failure> {
        self.producer.abort()?;
        Ok(std::mem::take(&mut self.batch).spans)
    }

    fn count(&mut self, batch: Batch) {
        let metrics = &self.metrics;
        metrics.readings.inc_by(batch.readings as u64);
        metrics.alerts.inc_by(batch.alerts);
        metrics.opened.inc_by(batch.episodes_opened);
        metrics.closed.inc_by(batch.episodes_closed);
        metrics.silenced.inc_by(batch.silenced);
        metrics.repeats.inc_by(batch.out.repeats);
        metrics.late.inc_by(batch.out.late);
        metrics.aged.inc_by(batch.out.aged);
        metrics.shadow_violations.inc_by(batch.out.shadow_violations);
        metrics.shadow_episodes.inc_by(batch.out.shadow_episodes);
        metrics.undecodable.inc_by(batch.undecodable);
        let now = Timestamp::now().as_micros();
        for received in batch.received {
            let micros = now.saturating_sub(received.as_micros()).max(0).unsigned_abs();
            metrics.alert_seconds.observe(Duration::from_micros(micros).as_secs_f64());
        }
        self.warn(batch.undecodable);
    }

    fn warn(&mut self, undecodable: u64) {
        self.undecodable += undecodable;
        if self.undecodable > 0 && self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            tracing::warn!(records = self.undecodable, "records are no readings; command-svc keeps them");
            (self.warned, self.undecodable) = (Some(Instant::now()), 0);
        }
    }
}

//! One session: consume, judge, commit, until the shutdown or an error ends it. Blocks, so it has a thread of its own.

use crate::join;
use crate::memory::{Cause, Memory};
use crate::metrics::Metrics;
use crate::ownership::{Handover, Ownership};
use crate::recall::recall;
use crate::rules::Rules;
use crate::transaction::{Transaction, Trouble};
use crate::{Config, GROUP};
use anyhow::{Context, anyhow};
use chassis::Chassis;
use chassis::kafka::{Monitor, REPORT_INTERVAL_MS, dead_letter_headers};
use chassis::retry::Backoff;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::{Alert, ReadingCreatedEvent, Timestamp, topics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A batch ends so long after its first alert: a burst shares one commit, a single alert waits for no more than this.
const ALERT_LINGER: Duration = Duration::from_millis(5);
/// A batch without any alert ends so long after its first reading: only offsets wait, so there is no hurry.
const OFFSETS_LINGER: Duration = Duration::from_millis(100);
/// Most readings of a batch; bounds what an abort repeats.
const BATCH_READINGS_MAX: usize = 2_000;
/// Longest wait for a reading when no batch is open; also how late a shutdown is seen.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// A broker that does not answer for so long is away.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Holds what every session of the process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    pub(crate) rules: Arc<RwLock<Rules>>,
    /// Ends the sessions: the shutdown, or the end of the table reader.
    pub(crate) stop: CancellationToken,
}

/// Names the topics with their prefix.
struct Topics {
    readings: String,
    alerts: String,
    dead_letters: String,
}

struct Session<'a> {
    shared: &'a Shared,
    topics: Topics,
    transaction: Transaction,
    memory: Memory,
    group: Option<ConsumerGroupMetadata>,
    batch: Batch,
}

/// What the open transaction holds.
#[derive(Default)]
struct Batch {
    opened: Option<Instant>,
    first_output: Option<Instant>,
    readings: usize,
    dead_letters: u64,
    repeats: u64,
    /// When the readings of the alerts were received.
    received: Vec<Timestamp>,
    /// Next offset of each partition.
    offsets: BTreeMap<i32, i64>,
}

impl Batch {
    /// Returns how long it may wait for another reading.
    fn wait(&self) -> Duration {
        let due = match (self.opened, self.first_output) {
            (_, Some(first)) => first + ALERT_LINGER,
            (Some(opened), None) => opened + OFFSETS_LINGER,
            (None, None) => return IDLE_WAIT,
        };
        due.saturating_duration_since(Instant::now())
    }

    fn is_due(&self) -> bool {
        self.opened.is_some() && (self.readings >= BATCH_READINGS_MAX || self.wait().is_zero())
    }
}

/// Runs one session.
pub(crate) fn run(shared: &Shared) -> Result<(), Trouble> {
    let kafka = &shared.config.kafka;
    let topics = Topics {
        readings: kafka.topic(topics::READINGS.name),
        alerts: kafka.topic(topics::ALERTS.name),
        dead_letters: kafka.topic(topics::READING_DLQ.name),
    };
    let latch = shared.chassis.readiness.latch("kafka");
    let monitor = Monitor::new(latch, shared.metrics.lag_records.clone());
    let consumer: BaseConsumer<Ownership> = kafka
        .consumer(GROUP)
        .set("group.instance.id", &shared.config.instance_id)
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        // Eager, so that a handover revokes everything and an abort needs no rewind.
        .set("partition.assignment.strategy", "range,roundrobin")
        .create_with_context(Ownership::new(monitor))
        .context("create the readings consumer")
        .map_err(Trouble::Stop)?;
    check_partitions(&consumer, &topics)?;
    let transaction = Transaction::start(kafka, &format!("{GROUP}-{}", shared.config.instance_id))?;
    consumer.subscribe(&[&topics.readings]).context("subscribe to readings").map_err(Trouble::Stop)?;
    let memory = Memory::new(shared.config.alerts_remembered);
    let mut session = Session { shared, topics, transaction, memory, group: None, batch: Batch::default() };
    let outcome = session.turn_until_stopped(&consumer);
    if outcome.is_err() && session.batch.opened.is_some() {
        // Best effort: the next session aborts it in any case, but readers need not wait for that.
        let _ = session.transaction.abort();
    }
    outcome
}

/// Refuses topics that are not co-partitioned: who owns a partition of readings writes and recalls that partition of alerts.
fn check_partitions(consumer: &BaseConsumer<Ownership>, topics: &Topics) -> Result<(), Trouble> {
    let count = |topic: &str| -> Result<usize, Trouble> {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WAIT).context("ask for the partitions");
        let metadata = metadata.map_err(Trouble::Retry)?;
        match metadata.topics().first().map_or(0, |topic| topic.partitions().len()) {
            0 => Err(Trouble::Retry(anyhow!("topic {topic} does not exist"))),
            count => Ok(count),
        }
    };
    let (readings, alerts) = (count(&topics.readings)?, count(&topics.alerts)?);
    count(&topics.dead_letters)?;
    if readings == alerts {
        return Ok(());
    }
    Err(Trouble::Stop(anyhow!(
        "{} has {readings} partitions and {} has {alerts}; they must have the same number",
        topics.readings,
        topics.alerts
    )))
}

impl Session<'_> {
    fn turn_until_stopped(&mut self, consumer: &BaseConsumer<Ownership>) -> Result<(), Trouble> {
        while !self.shared.stop.is_cancelled() {
            self.shared.chassis.liveness.beat();
            let polled = consumer.poll(self.batch.wait());
            for handover in consumer.context().take() {
                self.hand_over(handover)?;
            }
            match polled {
                Some(Ok(record)) => self.consume(&record)?,
                // librdkafka reconnects by itself; a fatal error shows that another instance has our name.
                Some(Err(error)) => match consumer.client().fatal_error() {
                    Some((code, reason)) => return Err(Trouble::Stop(anyhow!("{code}: {reason}"))),
                    None => tracing::warn!(%error, "readings cannot be consumed now"),
                },
                None => {}
            }
            if self.batch.is_due() {
                self.commit()?;
            }
        }
        // Drained: what was judged is committed, the rest is for the next start.
        if self.batch.opened.is_some() { self.commit() } else { Ok(()) }
    }

    fn hand_over(&mut self, handover: Handover) -> Result<(), Trouble> {
        match handover {
            Handover::Revoked(partitions) => {
                if self.batch.opened.is_some() {
                    self.transaction.abort()?;
                    self.batch = Batch::default();
                }
                for partition in &partitions {
                    self.memory.forget(*partition);
                }
                tracing::info!(?partitions, "partitions revoked");
            }
            Handover::Assigned(partitions, group) => {
                self.group = group;
                self.recall(&partitions)?;
                tracing::info!(?partitions, "partitions assigned");
            }
        }
        Ok(())
    }

    /// No reading of a partition is judged before its memory is there.
    fn recall(&mut self, partitions: &BTreeSet<i32>) -> Result<(), Trouble> {
        if partitions.is_empty() {
            return Ok(());
        }
        let beat = || {
            self.shared.chassis.liveness.beat();
            !self.shared.stop.is_cancelled()
        };
        let recalled =
            recall(&self.shared.config.kafka, &self.topics.alerts, partitions, &mut self.memory, beat);
        recalled.map_err(Trouble::Retry)
    }

    fn consume(&mut self, record: &BorrowedMessage<'_>) -> Result<(), Trouble> {
        if self.batch.opened.is_none() {
            self.transaction.begin()?;
            self.batch.opened = Some(Instant::now());
        }
        let decoded = match record.payload() {
            Some(value) => serde_json::from_slice::<ReadingCreatedEvent>(value).map_err(|error| {
                // Not the error's text, which may quote the payload.
                format!("no reading-created event: {:?} error at column {}", error.classify(), error.column())
            }),
            None => Err("no value".to_owned()),
        };
        match decoded {
            Ok(reading) => self.judge(&reading, record.partition())?,
            Err(reason) => self.bury(record, &reason)?,
        }
        self.batch.readings += 1;
        self.batch.offsets.insert(record.partition(), record.offset() + 1);
        Ok(())
    }

    fn judge(&mut self, reading: &ReadingCreatedEvent, partition: i32) -> Result<(), Trouble> {
        let alerts = {
            let rules = self.shared.rules.read().unwrap_or_else(PoisonError::into_inner);
            join::judge(reading, rules.of(&reading.sensor_id), Timestamp::now())
        };
        for alert in alerts {
            // On an abort the session or the partition ends, and the memory with it.
            if !self.memory.remember(partition, Cause::from(&alert)) {
                self.batch.repeats += 1;
                continue;
            }
            let value = serde_json::to_vec(&alert).context("encode an alert").map_err(Trouble::Stop)?;
            let schema = Header { key: "schema", value: Some(Alert::SCHEMA) };
            let headers = OwnedHeaders::new().insert(schema);
            let key = Some(alert.sensor_id.as_bytes());
            // The reading's own partition, so that whoever owns it next recalls the alert.
            self.transaction.send(&self.topics.alerts, Some(partition), key, Some(&value), headers)?;
            self.batch.first_output.get_or_insert_with(Instant::now);
            self.batch.received.push(reading.received_at);
        }
        Ok(())
    }

    fn bury(&mut self, record: &BorrowedMessage<'_>, reason: &str) -> Result<(), Trouble> {
        let (partition, offset) = (record.partition(), record.offset());
        tracing::warn!(partition, offset, reason, "reading goes to the dead letters");
        let headers = dead_letter_headers(record, reason);
        self.transaction.send(&self.topics.dead_letters, None, record.key(), record.payload(), headers)?;
        self.batch.first_output.get_or_insert_with(Instant::now);
        self.batch.dead_letters += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        let started = Instant::now();
        let group = self.group.as_ref().ok_or_else(|| Trouble::Retry(anyhow!("the group is not joined")))?;
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in &self.batch.offsets {
            offsets
                .add_partition_offset(&self.topics.readings, *partition, Offset::Offset(*offset))
                .context("name an offset")
                .map_err(Trouble::Stop)?;
        }
        self.transaction.commit(&offsets, group)?;
        let batch = std::mem::take(&mut self.batch);
        let metrics = &self.shared.metrics;
        metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        metrics.readings.inc_by(batch.readings as u64);
        metrics.alerts.inc_by(batch.received.len() as u64);
        metrics.repeats.inc_by(batch.repeats);
        metrics.dead_letters.inc_by(batch.dead_letters);
        let now = Timestamp::now().as_micros();
        for received in batch.received {
            let micros = now.saturating_sub(received.as_micros()).max(0).unsigned_abs();
            metrics.alert_seconds.observe(Duration::from_micros(micros).as_secs_f64());
        }
        Ok(())
    }
}

/// Runs sessions until the shutdown, or until one ends that trying again does not heal.
pub(crate) async fn repeat(shared: Shared) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    loop {
        let in_thread = shared.clone();
        let started = Instant::now();
        let outcome = tokio::task::spawn_blocking(move || run(&in_thread)).await.context("run a session")?;
        let error = match outcome {
            Ok(()) => return Ok(()),
            // A drain that fails leaves the readings to the next start.
            Err(_) if shared.stop.is_cancelled() => return Ok(()),
            Err(Trouble::Stop(error)) => return Err(error),
            Err(Trouble::Retry(error)) => error,
        };
        shared.chassis.readiness.latch("kafka").close();
        shared.metrics.retries.inc();
        // A session that worked for a while says that this is a new failure.
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        tracing::warn!(error = format!("{error:#}"), ?wait, "session ended; beginning again");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.stop.cancelled() => return Ok(()),
        }
    }
}

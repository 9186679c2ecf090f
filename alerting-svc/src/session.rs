//! One session: consume, evaluate, commit, until the shutdown or an error ends it. Blocks, so it has a thread of its own.

use crate::batch::Batch;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::restore::Restorer;
use crate::{Config, GROUP};
use anyhow::{Context, anyhow};
use chassis::Chassis;
use chassis::kafka::{
    Assignment, Change, Member, Monitor, REPORT_INTERVAL_MS, TransactionalProducer, partitions,
};
use chassis::retry::{Supervisor, Try};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rules::{Dedup, Rules, evaluate};
use schema::{Alert, Mode, ReadingCreatedEvent, Timestamp, topics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Longest wait for a reading while a partition is restored; its partition goes on no sooner than this is over.
const RESTORE_WAIT: Duration = Duration::from_millis(5);
/// Commits in a row that the group may refuse before the session is given up, and the pause after each:
/// together some seconds, in which the news of the rebalance must have come.
const REFUSALS_MAX: u32 = 200;
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);
/// Longest open transaction, after which the broker aborts it; readers wait for it until then. A batch takes a
/// tenth of a second.
const TRANSACTION_MAX: Duration = Duration::from_secs(10);
/// Shortest time between two warnings about readings that cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Holds what every session of the process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    pub(crate) rules: Arc<RwLock<Rules>>,
    pub(crate) assignment: Assignment,
    /// Ends the sessions: the shutdown, or the end of the table reader.
    pub(crate) stop: CancellationToken,
}

/// Names the topics with their prefix.
struct Topics {
    readings: String,
    alerts: String,
}

struct Session<'a> {
    shared: &'a Shared,
    topics: Topics,
    consumer: &'a BaseConsumer<Member>,
    producer: TransactionalProducer,
    dedup: Dedup,
    restorer: Restorer,
    group: Option<ConsumerGroupMetadata>,
    batch: Batch,
    /// Commits that the group has refused in a row.
    refusals: u32,
    /// When readings that cannot be read were last warned about, and how many there were since.
    warned: Option<Instant>,
    undecodable: u64,
}

/// Runs one session.
pub(crate) fn run(shared: &Shared) -> Result<(), Failure> {
    let kafka = &shared.config.kafka;
    let topics =
        Topics { readings: kafka.topic(topics::READINGS.name), alerts: kafka.topic(topics::ALERTS.name) };
    let latch = shared.chassis.readiness.latch("kafka");
    let monitor = Monitor::new(latch);
    let consumer: BaseConsumer<Member> = kafka
        .consumer(GROUP)
        .set("group.instance.id", &shared.config.instance_id)
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        // A rebalance takes away only what moves; the other partitions go on.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .create_with_context(Member::new(monitor, shared.assignment.clone()).beginning_paused())
        .context("create the readings consumer")
        .map_err(Failure::Stop)?;
    check_partitions(&consumer, &topics)?;
    let mut transactional =
        kafka.transactional_producer(&format!("{GROUP}-{}", shared.config.instance_id), TRANSACTION_MAX);
    // The commit flushes; waiting for more records would only delay the alert.
    let producer = TransactionalProducer::start(transactional.set("linger.ms", "0"))?;
    consumer.subscribe(&[&topics.readings]).context("subscribe to readings").map_err(Failure::Stop)?;
    let capacity = shared.config.alerts_remembered;
    let restorer = Restorer::start(kafka, &topics.alerts, capacity).map_err(Failure::Stop)?;
    let mut session = Session {
        shared,
        topics,
        consumer: &consumer,
        producer,
        dedup: Dedup::new(capacity),
        restorer,
        group: None,
        batch: Batch::default(),
        refusals: 0,
        warned: None,
        undecodable: 0,
    };
    let outcome = session.run_until_stopped();
    if outcome.is_err() && session.batch.is_open() {
        // Best effort: the next session aborts it in any case, but readers need not wait for that.
        let _ = session.producer.abort();
    }
    outcome
}

/// Refuses topics that are not co-partitioned: who owns a partition of readings writes and restores that partition of alerts.
fn check_partitions(consumer: &BaseConsumer<Member>, topics: &Topics) -> Result<(), Failure> {
    let count = |topic: &str| -> Result<usize, Failure> {
        let partitions = partitions(consumer, topic).context("ask for the partitions");
        match partitions.map_err(Failure::Retry)?.len() {
            0 => Err(Failure::Retry(anyhow!("topic {topic} does not exist"))),
            count => Ok(count),
        }
    };
    let (readings, alerts) = (count(&topics.readings)?, count(&topics.alerts)?);
    if readings == alerts {
        return Ok(());
    }
    Err(Failure::Stop(anyhow!(
        "{} has {readings} partitions and {} has {alerts}; they must have the same number",
        topics.readings,
        topics.alerts
    )))
}

impl Session<'_> {
    fn run_until_stopped(&mut self) -> Result<(), Failure> {
        while !self.shared.stop.is_cancelled() {
            self.shared.chassis.liveness.beat();
            let wait = self.batch.wait();
            let polled =
                self.consumer.poll(if self.restorer.is_busy() { wait.min(RESTORE_WAIT) } else { wait });
            let mut rewound = BTreeSet::new();
            for change in self.consumer.context().take() {
                rewound.extend(self.apply_rebalance(change)?);
            }
            self.take_restored()?;
            match polled {
                // It comes again, behind those before it.
                Some(Ok(record)) if rewound.contains(&record.partition()) => {}
                Some(Ok(record)) => self.consume(&record)?,
                // librdkafka reconnects by itself; a fatal error shows that another instance has our name.
                Some(Err(error)) => match self.consumer.client().fatal_error() {
                    Some((code, reason)) => return Err(Failure::Stop(anyhow!("{code}: {reason}"))),
                    None => tracing::warn!(%error, "readings cannot be consumed now"),
                },
                None => {}
            }
            if self.batch.is_due() {
                self.commit_or_rewind()?;
            }
        }
        // Drained: what was evaluated is committed, the rest is for the next start.
        if self.batch.is_open() { self.commit() } else { Ok(()) }
    }

    /// Returns the partitions that are read again.
    fn apply_rebalance(&mut self, change: Change) -> Result<BTreeSet<i32>, Failure> {
        match change {
            Change::Revoked(partitions) => {
                for partition in &partitions {
                    self.restorer.cancel(*partition);
                    self.dedup.remove(*partition);
                }
                // Their readings are the for the next owner.
                if self.batch.spans.keys().any(|partition| partitions.contains(partition)) {
                    return self.abort_and_rewind();
                }
                Ok(BTreeSet::new())
            }
            Change::Assigned(partitions, group) => {
                self.group = group;
                self.restorer.request(partitions);
                Ok(BTreeSet::new())
            }
        }
    }

    /// Aborts the open transaction and points the consumer at the first reading of it in each partition that
    /// is kept.
    fn abort_and_rewind(&mut self) -> Result<BTreeSet<i32>, Failure> {
        self.producer.abort()?;
        self.dedup.abort();
        let spans = std::mem::take(&mut self.batch).spans;
        let kept = spans.into_iter().filter(|(partition, _)| self.dedup.is_restored(*partition));
        let firsts: BTreeMap<i32, i64> = kept.map(|(partition, span)| (partition, span.first)).collect();
        self.seek(&firsts)?;
        Ok(firsts.into_keys().collect())
    }

    fn seek(&self, offsets: &BTreeMap<i32, i64>) -> Result<(), Failure> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.list(offsets)?;
        let sought = self.consumer.seek_partitions(list, ANSWER_WAIT).context("seek");
        let sought = sought.map_err(Failure::Retry)?;
        let outcome = sought.elements().iter().try_for_each(|element| element.error());
        outcome.context("seek").map_err(Failure::Retry)
    }

    fn list(&self, offsets: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, Failure> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topics.readings, *partition, Offset::Offset(*offset))
                .context("name an offset")
                .map_err(Failure::Stop)?;
        }
        Ok(list)
    }

    /// Lets the partitions go on that are restored.
    fn take_restored(&mut self) -> Result<(), Failure> {
        while let Some((partition, window)) = self.restorer.take().map_err(Failure::Retry)? {
            self.dedup.restore(partition, window);
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topics.readings, partition);
            self.consumer.resume(&list).context("resume a partition").map_err(Failure::Retry)?;
        }
        Ok(())
    }

    fn consume(&mut self, record: &BorrowedMessage<'_>) -> Result<(), Failure> {
        let (partition, offset) = (record.partition(), record.offset());
        if !self.dedup.is_restored(partition) {
            // No reading is evaluated before its partition is restored; it is paused, and goes on from
            // here.
            if self.restorer.is_requested(partition) {
                self.seek(&BTreeMap::from([(partition, offset)]))?;
            }
            return Ok(());
        }
        if !self.batch.is_open() {
            self.producer.begin()?;
            self.batch.opened = Some(Instant::now());
        }
        match record.payload().map(serde_json::from_slice::<ReadingCreatedEvent>) {
            Some(Ok(reading)) => self.evaluate(&reading, partition)?,
            // command-svc keeps it as a dead letter.
            Some(Err(_)) | None => self.batch.undecodable += 1,
        }
        self.batch.add(partition, offset);
        Ok(())
    }

    fn evaluate(&mut self, reading: &ReadingCreatedEvent, partition: i32) -> Result<(), Failure> {
        let alerts = {
            let rules = self.shared.rules.read().unwrap_or_else(PoisonError::into_inner);
            let thresholds = rules.of(&reading.sensor_id, &reading.zone_id, &reading.device_type);
            let mut alerts = Vec::new();
            for violation in evaluate(reading, thresholds) {
                if violation.threshold.mode == Mode::Live {
                    alerts.push((violation.key(reading), violation.alert(reading, Timestamp::now())));
                } else {
                    self.batch.shadow_violations += 1;
                }
            }
            alerts
        };
        for (key, alert) in alerts {
            if !self.dedup.insert(partition, key) {
                self.batch.repeats += 1;
                continue;
            }
            let value = serde_json::to_vec(&alert).context("encode an alert").map_err(Failure::Stop)?;
            let schema = Header { key: "schema", value: Some(Alert::SCHEMA) };
            let headers = OwnedHeaders::new().insert(schema);
            // The reading's own partition, so that whoever owns it next restores the alert.
            let record = BaseRecord::<[u8], [u8]>::to(&self.topics.alerts)
                .partition(partition)
                .key(alert.sensor_id.as_bytes())
                .payload(&value)
                .headers(headers);
            self.producer.send(record)?;
            self.batch.first_alert.get_or_insert_with(Instant::now);
            self.batch.received.push(reading.received_at);
        }
        Ok(())
    }

    /// Commits, or when the group has gone on to another generation, does the same under that one.
    fn commit_or_rewind(&mut self) -> Result<(), Failure> {
        match self.commit() {
            Err(Failure::Regrouped(error)) if self.refusals < REFUSALS_MAX => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the group is in a rebalance; evaluating again"
                );
                self.refusals += 1;
                self.abort_and_rewind()?;
                pause();
                Ok(())
            }
            outcome => {
                self.refusals = 0;
                outcome
            }
        }
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let group = self.group.as_ref().ok_or_else(|| Failure::Retry(anyhow!("the group is not joined")))?;
        let nexts = self.batch.spans.iter().map(|(partition, span)| (*partition, span.next)).collect();
        let offsets = self.list(&nexts)?;
        self.producer.commit(Some((&offsets, group)))?;
        self.dedup.commit();
        let batch = std::mem::take(&mut self.batch);
        let metrics = &self.shared.metrics;
        metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        metrics.readings.inc_by(batch.readings as u64);
        metrics.alerts.inc_by(batch.received.len() as u64);
        metrics.repeats.inc_by(batch.repeats);
        metrics.undecodable.inc_by(batch.undecodable);
        metrics.shadow_violations.inc_by(batch.shadow_violations);
        self.warn(batch.undecodable);
        let now = Timestamp::now().as_micros();
        for received in batch.received {
            let micros = now.saturating_sub(received.as_micros()).max(0).unsigned_abs();
            metrics.alert_seconds.observe(Duration::from_micros(micros).as_secs_f64());
        }
        Ok(())
    }

    fn warn(&mut self, undecodable: u64) {
        self.undecodable += undecodable;
        if self.undecodable > 0 && self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            tracing::warn!(records = self.undecodable, "records are no readings; command-svc keeps them");
            (self.warned, self.undecodable) = (Some(Instant::now()), 0);
        }
    }
}

/// Gives the group a moment to tell of its rebalance.
#[expect(
    clippy::disallowed_methods,
    reason = "the session has a thread of its own, and the news come by its next poll"
)]
fn pause() {
    std::thread::sleep(REFUSAL_PAUSE);
}

/// Runs sessions until the shutdown, or until one ends that trying again does not heal.
pub(crate) async fn supervise(shared: &Shared) -> anyhow::Result<()> {
    let latch = shared.chassis.readiness.latch("kafka");
    let set_up = |is_up: bool| {
        // The monitor of the next session opens it.
        if !is_up {
            latch.close();
        }
    };
    let mut supervisor = Supervisor::new("session ended; beginning again")
        .counting(&shared.metrics.retries)
        .telling(&set_up)
        .until(&shared.stop);
    let session = |one: Try| async move {
        let (in_thread, started) = (shared.clone(), Instant::now());
        let outcome = match tokio::task::spawn_blocking(move || run(&in_thread)).await {
            Ok(outcome) => outcome,
            Err(panicked) => return Ok(Err(panicked)),
        };
        // A session that worked for a while says that this is a new failure.
        if started.elapsed() > Duration::from_secs(60) {
            one.worked();
        }
        outcome.map(Ok)
    };
    match supervisor.run(Failure::disposition, session).await {
        Ok(outcome) => outcome.context("run a session"),
        // A drain that fails leaves the readings to the next start.
        Err(_) if shared.stop.is_cancelled() => Ok(()),
        Err(Failure::Stop(error) | Failure::Retry(error) | Failure::Regrouped(error)) => Err(error),
    }
}

//! One session: consume → evaluate → commit, until the shutdown or a failure ends it. Blocks, so it has a
//! thread of its own.

use crate::commit::Transaction;
use crate::consumer::ReadingsConsumer;
use crate::failure::Failure;
use crate::restore::Restorer;
use crate::shared::Shared;
use anyhow::{Context, anyhow};
use chassis::kafka::Change;
use chassis::retry::{Supervisor, Try};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{BorrowedMessage, Message};
use rules::{Dedup, DedupKey, evaluate};
use schema::{Alert, Mode, ReadingCreatedEvent, Timestamp, topics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Longest wait for a reading while a partition is restored, which goes on no sooner than this is over.
const RESTORE_WAIT: Duration = Duration::from_millis(5);
/// Commits in a row that the group may refuse before the session is given up. With the pause after each they
/// take some seconds, in which the news of the rebalance must have come.
const REFUSALS_MAX: u32 = 200;
/// Pause after a commit that the group refused.
const REFUSAL_PAUSE: Duration = Duration::from_millis(20);
/// Age of a session from which its failure counts as a new one, and the backoff begins again.
const WORKED_AFTER: Duration = Duration::from_secs(60);

struct Session<'a> {
    shared: &'a Shared,
    consumer: &'a ReadingsConsumer,
    transaction: Transaction,
    dedup: Dedup,
    restorer: Restorer,
    group: Option<ConsumerGroupMetadata>,
    /// Commits that the group has refused in a row.
    refusals: u32,
}

/// Runs one session.
fn run(shared: &Shared) -> Result<(), Failure> {
    let consumer = ReadingsConsumer::open(shared)?;
    let transaction = Transaction::start(shared)?;
    consumer.subscribe()?;
    let (kafka, capacity) = (&shared.config.kafka, shared.config.alerts_remembered);
    let alerts = kafka.topic(topics::ALERTS.name);
    let restorer = Restorer::start(kafka, &alerts, capacity).map_err(Failure::Stop)?;
    let mut session = Session {
        shared,
        consumer: &consumer,
        transaction,
        dedup: Dedup::new(capacity),
        restorer,
        group: None,
        refusals: 0,
    };
    let outcome = session.run_until_stopped();
    if outcome.is_err() && session.transaction.batch.is_open() {
        // Best effort: the next session aborts it in any case, but readers need not wait for that.
        let _ = session.transaction.abort();
    }
    outcome
}

impl Session<'_> {
    fn run_until_stopped(&mut self) -> Result<(), Failure> {
        while !self.shared.stop.is_cancelled() {
            self.shared.chassis.liveness.beat();
            let polled = self.consumer.poll(self.wait())?;
            let rewound = self.apply_rebalances()?;
            self.resume_restored()?;
            // A record of a partition that was rewound comes again, behind those before it.
            if let Some(record) = polled
                && !rewound.contains(&record.partition())
            {
                self.consume(&record)?;
            }
            if self.transaction.batch.is_due(Instant::now()) {
                self.commit_or_rewind()?;
            }
        }
        // Drained: evaluated readings are committed, the rest is for the next start.
        if self.transaction.batch.is_open() { self.commit() } else { Ok(()) }
    }

    fn wait(&self) -> Duration {
        let wait = self.transaction.batch.wait(Instant::now());
        if self.restorer.is_busy() { wait.min(RESTORE_WAIT) } else { wait }
    }

    /// Returns the partitions that are read again.
    fn apply_rebalances(&mut self) -> Result<BTreeSet<i32>, Failure> {
        let mut rewound = BTreeSet::new();
        for change in self.consumer.take_changes() {
            match change {
                Change::Revoked(partitions) => {
                    for partition in &partitions {
                        self.restorer.cancel(*partition);
                        self.dedup.remove(*partition);
                    }
                    // Their readings are for the next owner.
                    let spans = &self.transaction.batch.spans;
                    if spans.keys().any(|partition| partitions.contains(partition)) {
                        rewound.extend(self.abort_and_rewind()?);
                    }
                }
                Change::Assigned(partitions, group) => {
                    self.group = group;
                    self.restorer.request(partitions);
                }
            }
        }
        Ok(rewound)
    }

    /// Aborts the open transaction and points the consumer at the first reading of it in each partition that
    /// is kept.
    fn abort_and_rewind(&mut self) -> Result<BTreeSet<i32>, Failure> {
        let spans = self.transaction.abort()?;
        self.dedup.abort();
        let kept = spans.into_iter().filter(|(partition, _)| self.dedup.is_restored(*partition));
        let firsts: BTreeMap<i32, i64> = kept.map(|(partition, span)| (partition, span.first)).collect();
        self.consumer.seek(&firsts)?;
        Ok(firsts.into_keys().collect())
    }

    /// Lets the partitions go on that are restored.
    fn resume_restored(&mut self) -> Result<(), Failure> {
        while let Some((partition, window)) = self.restorer.take().map_err(Failure::Retry)? {
            self.dedup.restore(partition, window);
            self.consumer.resume(partition)?;
        }
        Ok(())
    }

    fn consume(&mut self, record: &BorrowedMessage<'_>) -> Result<(), Failure> {
        let (partition, offset) = (record.partition(), record.offset());
        if !self.dedup.is_restored(partition) {
            // No reading is evaluated before its partition is restored; it is paused, and goes on from here.
            if self.restorer.is_requested(partition) {
                self.consumer.seek(&BTreeMap::from([(partition, offset)]))?;
            }
            return Ok(());
        }
        self.transaction.begin()?;
        match record.payload().map(serde_json::from_slice::<ReadingCreatedEvent>) {
            Some(Ok(reading)) => self.evaluate(&reading, partition)?,
            // command-svc keeps it as a dead letter.
            Some(Err(_)) | None => self.transaction.batch.undecodable += 1,
        }
        self.transaction.batch.add(partition, offset);
        Ok(())
    }

    fn evaluate(&mut self, reading: &ReadingCreatedEvent, partition: i32) -> Result<(), Failure> {
        for (key, alert) in self.alerts_of(reading) {
            if self.dedup.insert(partition, key) {
                self.transaction.send(&alert, partition, reading.received_at)?;
            } else {
                self.transaction.batch.repeats += 1;
            }
        }
        Ok(())
    }

    /// Returns the alerts before any is produced: producing may wait, and the table must not wait for it.
    fn alerts_of(&mut self, reading: &ReadingCreatedEvent) -> Vec<(DedupKey, Alert)> {
        let rules = self.shared.rules.read().unwrap_or_else(PoisonError::into_inner);
        let thresholds = rules.of(&reading.sensor_id, &reading.zone_id, &reading.device_type);
        let mut alerts = Vec::new();
        for violation in evaluate(reading, thresholds) {
            if violation.threshold.mode == Mode::Live {
                alerts.push((violation.key(reading), violation.alert(reading, Timestamp::now())));
            } else {
                self.transaction.batch.shadow_violations += 1;
            }
        }
        alerts
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
        let group = self.group.as_ref().ok_or_else(|| Failure::Retry(anyhow!("the group is not joined")))?;
        self.transaction.commit(self.consumer, group)?;
        self.dedup.commit();
        Ok(())
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
        if started.elapsed() > WORKED_AFTER {
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

//! One session: consume → evaluate → commit, until the shutdown or a failure ends it. Blocks, so it has a
//! thread of its own.

use crate::commit::Transaction;
use crate::consumer::ReadingsConsumer;
use crate::failure::Failure;
use crate::partition::Partition;
use crate::restore::Restorer;
use crate::shared::Shared;
use crate::tables::Changed;
use anyhow::{Context, anyhow};
use chassis::kafka::Change;
use chassis::retry::{Supervisor, Try};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::message::{BorrowedMessage, Message};
use rules::Input;
use schema::{ReadingView, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest wait for a reading while a partition is restored, which goes on no sooner than this is over.
const RESTORE_WAIT: Duration = Duration::from_millis(5);
/// Most records that are consumed before anything else is looked at: a fraction of a millisecond.
const BURST_RECORDS_MAX: usize = 256;
/// Interval of ticks: how late a timer fires that no reading fires.
const TICK: Duration = Duration::from_millis(250);
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
    /// The partitions that are restored.
    partitions: BTreeMap<i32, Partition>,
    restorer: Restorer,
    ticked: Instant,
    group: Option<ConsumerGroupMetadata>,
    /// Commits that the group has refused in a row.
    refusals: u32,
}

/// Runs one session.
fn run(shared: &Shared) -> Result<(), Failure> {
    let consumer = ReadingsConsumer::open(shared)?;
    let transaction = Transaction::start(shared)?;
    consumer.subscribe()?;
    let restorer = Restorer::start(shared).map_err(Failure::Stop)?;
    let mut session = Session {
        shared,
        consumer: &consumer,
        transaction,
        partitions: BTreeMap::new(),
        restorer,
        ticked: Instant::now(),
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

impl<'a> Session<'a> {
    fn run_until_stopped(&mut self) -> Result<(), Failure> {
        // What came with the last change of the assignment.
        let mut left: Option<BorrowedMessage<'_>> = None;
        while !self.shared.stop.is_cancelled() {
            self.shared.chassis.liveness.beat();
            let polled = match left.take() {
                Some(record) => Some(record),
                None => self.consumer.poll(self.wait())?,
            };
            self.transaction.batch.is_behind &= polled.is_some();
            let rewound = self.apply_rebalances()?;
            self.resume_restored()?;
            self.follow_tables()?;
            // A record of a partition that was rewound comes again, behind those before it.
            if let Some(record) = polled
                && !rewound.contains(&record.partition())
            {
                left = self.consume_burst(record)?;
            }
            if self.consumer.has_changed() {
                continue;
            }
            if self.ticked.elapsed() >= TICK {
                self.ticked = Instant::now();
                self.tick()?;
            }
            if self.transaction.batch.is_due(Instant::now()) {
                self.commit_or_rewind()?;
            }
        }
        // Drained: evaluated readings are committed, the rest is for the next start.
        if self.transaction.batch.is_open() { self.commit() } else { Ok(()) }
    }

    fn wait(&self) -> Duration {
        if self.transaction.batch.is_behind {
            return Duration::ZERO;
        }
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
                        self.partitions.remove(partition);
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
        for partition in self.partitions.values_mut() {
            partition.episodes.abort();
            partition.is_checked = false;
        }
        let kept = spans.into_iter().filter(|(partition, _)| self.partitions.contains_key(partition));
        let firsts: BTreeMap<i32, i64> = kept.map(|(partition, span)| (partition, span.first)).collect();
        for (partition, first) in &firsts {
            if let Some(held) = self.partitions.get_mut(partition) {
                held.next = Some(*first);
            }
        }
        self.consumer.seek(&firsts)?;
        Ok(firsts.into_keys().collect())
    }

    /// Lets the partitions go on that are restored.
    fn resume_restored(&mut self) -> Result<(), Failure> {
        while let Some((partition, restored)) = self.restorer.take().map_err(Failure::Retry)? {
            self.partitions.insert(partition, restored);
            self.consumer.resume(partition)?;
        }
        Ok(())
    }

    /// Closes what the tables do not speak for any more: in a partition that is new all at once, in the
    /// others what has changed.
    fn follow_tables(&mut self) -> Result<(), Failure> {
        let changes = self.shared.tables.take_changes();
        if changes.is_none() {
            self.partitions.values_mut().for_each(|partition| partition.is_checked = false);
        }
        let partitions: Vec<i32> = self.partitions.keys().copied().collect();
        for partition in partitions {
            let Some(held) = self.partitions.get(&partition) else { continue };
            // Without an offset to commit nothing could be told; the first reading brings one.
            if held.next.is_none() {
                continue;
            }
            if !held.is_checked {
                self.step(partition, Input::Restored, Timestamp::now(), None)?;
                if let Some(held) = self.partitions.get_mut(&partition) {
                    held.is_checked = true;
                }
                continue;
            }
            for change in changes.iter().flatten() {
                let input = match change {
                    Changed::Rule(touched) => Input::RuleChanged(touched),
                    Changed::Device(sensor_id) => Input::DeviceChanged(sensor_id),
                };
                self.step(partition, input, Timestamp::now(), None)?;
            }
        }
        Ok(())
    }

    /// Lets the clock fire what is due, in the partitions of which no reading waits.
    fn tick(&mut self) -> Result<(), Failure> {
        let now = Timestamp::now();
        let is_due = |held: &Partition| held.episodes.next_due().is_some_and(|due| due <= now);
        let due = self.partitions.iter().filter(|(_, held)| held.is_checked && is_due(held));
        let due: BTreeSet<i32> = due.map(|(partition, _)| *partition).collect();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let open = self.partitions.values().map(|held| held.episodes.open_count()).sum();
        self.shared.metrics.open.set(count(open));
        let mut late = 0;
        if !due.is_empty() {
            // The ends are asked after the clock: until then, everything there is was evaluated.
            let ends = self.consumer.ends(due.iter().copied())?;
            for partition in due {
                let next = self.partitions.get(&partition).and_then(|held| held.next);
                match (next, ends.get(&partition)) {
                    (Some(next), Some(end)) if *end <= next => {
                        self.step(partition, Input::Tick, now, None)?;
                    }
                    _ => late += 1,
                }
            }
        }
        self.shared.metrics.ticks_late.set(count(late));
        Ok(())
    }

    /// Consumes a record and those that wait behind it. One that comes with a change of the assignment is
    /// returned: the change goes first.
    fn consume_burst(&mut self, first: BorrowedMessage<'a>) -> Result<Option<BorrowedMessage<'a>>, Failure> {
        let (mut record, now) = (first, Timestamp::now());
        for _ in 1..BURST_RECORDS_MAX {
            self.consume(&record, now)?;
            let next = self.consumer.poll(Duration::ZERO)?;
            if self.consumer.has_changed() {
                return Ok(next);
            }
            let Some(next) = next else {
                self.transaction.batch.is_behind = false;
                return Ok(None);
            };
            record = next;
        }
        self.consume(&record, now)?;
        self.transaction.batch.is_behind = true;
        Ok(None)
    }

    /// Consumes a record of a burst that began at `now`.
    fn consume(&mut self, record: &BorrowedMessage<'_>, now: Timestamp) -> Result<(), Failure> {
        let (partition, offset) = (record.partition(), record.offset());
        if !self.partitions.contains_key(&partition) {
            // No reading is evaluated before its partition is restored; it is paused, and goes on from here.
            if self.restorer.is_requested(partition) {
                self.consumer.seek(&BTreeMap::from([(partition, offset)]))?;
            }
            return Ok(());
        }
        self.transaction.begin()?;
        self.transaction.batch.add(partition, offset);
        match record.payload().map(ReadingView::decode) {
            Some(Ok(reading)) => {
                // One that came since is not detected before.
                let now = if reading.received_at > now { Timestamp::now() } else { now };
                let received_at = Some(reading.received_at);
                self.step(partition, Input::Reading(&reading, offset), now, received_at)?;
            }
            // command-svc keeps it as a dead letter.
            Some(Err(_)) | None => self.transaction.batch.undecodable += 1,
        }
        if let Some(held) = self.partitions.get_mut(&partition) {
            held.next = Some(offset + 1);
        }
        Ok(())
    }

    /// Makes one step of a partition's episodes, and produces its alerts.
    fn step(
        &mut self,
        partition: i32,
        input: Input<'_>,
        now: Timestamp,
        received_at: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let Some(held) = self.partitions.get_mut(&partition) else { return Ok(()) };
        // The alerts are made before any is produced: producing may wait, and the tables must not wait for
        // it.
        let alerts = {
            let tables = self.shared.tables.read();
            let rules = rules::Tables { rules: &tables.rules, devices: &tables.devices };
            let out = &mut self.transaction.batch.out;
            held.episodes.step(rules, input, now, out);
            let mut alerts = std::mem::take(&mut out.alerts);
            for alert in &mut alerts {
                alert.silenced_by = tables.silences.covering(alert);
            }
            alerts
        };
        if let Some(next) = held.next
            && held.episodes.has_changes()
        {
            self.transaction.begin()?;
            self.transaction.batch.add_standing(partition, next);
        }
        for alert in alerts {
            self.transaction.begin()?;
            self.transaction.send(&alert, partition, received_at)?;
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
        let group = self.group.as_ref().ok_or_else(|| Failure::Retry(anyhow!("the group is not joined")))?;
        let now = Timestamp::now();
        for partition in self.transaction.batch.spans.keys().copied().collect::<Vec<_>>() {
            let Some(held) = self.partitions.get_mut(&partition) else { continue };
            for (key, episode) in held.episodes.changes(now) {
                self.transaction.send_state(&key, episode.as_ref(), partition)?;
            }
        }
        self.transaction.commit(self.consumer, group)?;
        self.partitions.values_mut().for_each(|held| held.episodes.commit());
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

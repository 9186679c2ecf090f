//! Kafka `iot-alerts` → table `alert_episodes`.
//!
//! It runs beside the readings, with a consumer group, a connection and a latch of its own: neither waits for
//! the other, and the stall of one does not hide that of the other. An alert that cannot be a row is a dead
//! letter; one of before there were episodes is counted and skipped.

pub mod row;
pub mod store;

use crate::batch::Rejected;
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::store::Error;
use crate::{Config, STATEMENTS_PER_WRITE};
use anyhow::Context;
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::kafka::{
    Assignment, Commits, Done, Member, Monitor, REPORT_INTERVAL_MS, Watch, WatchMetrics, Watched,
};
use chassis::retry::Supervisor;
use futures::FutureExt as _;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::topic_partition_list::TopicPartitionList;
use row::Row;
use schema::topics;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::EpisodeStore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The group that reads alerts for the table.
pub(crate) const GROUP: &str = "command-svc-episodes";
/// What the metrics of its watch begin with.
pub(crate) const WATCH_PREFIX: &str = "command_episodes";
/// Most records of a transaction: enough that a storm of alerts is written as fast as it comes.
const BATCH_RECORDS_MAX: usize = 500;
/// Most kibibytes that are fetched ahead; an alert has about one.
const QUEUE_KIB_MAX: &str = "8192";
/// Connections that it takes beside those of the readings.
const CONNECTIONS_MAX: usize = 1;
/// Age of a write from which the partitions pause; the consumer has to be polled meanwhile, or the group
/// takes it for dead.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// Longest drain after a shutdown, for what is being written; the rest is delivered again.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Reads alerts and writes episodes.
struct Episodes {
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
    assignment: Assignment,
    commits: Arc<Commits>,
    store: EpisodeStore,
    dead_letters: DeadLetters,
    metrics: Metrics,
    latch: Latch,
    is_away: Arc<AtomicBool>,
    held: Held,
}

/// Holds the records that came and the partitions that were paused while a batch was written.
#[derive(Default)]
struct Held {
    /// For the next batch.
    records: Vec<Taken>,
    /// Paused and not resumed. It outlives an ownership, as the client's own flag does.
    paused: BTreeSet<i32>,
}

/// A record, and the version of the assignment under which it came.
struct Taken {
    record: OwnedMessage,
    version: u64,
}

/// Rows of a batch, each with the records that it was made of.
type Rows = BTreeMap<Uuid, (Row, Vec<Taken>)>;

/// Starts the consumer, its writer and its watch; they end with the service.
///
/// # Errors
/// A client or the pool cannot be made (stop).
pub(crate) fn start(
    config: &Config,
    chassis: &Chassis,
    dead_letters: &DeadLetters,
    metrics: &Metrics,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (topic, assignment) = (config.kafka.topic(topics::ALERTS.name), Assignment::default());
    let commits = Arc::new(Commits::new(assignment.clone()));
    let consumer = Arc::new(consumer(config, chassis, &assignment, &commits)?);
    let pool = config.postgres.clone().with_connections_max(CONNECTIONS_MAX).pool()?;
    let answer_max = config.postgres.statement_max() * STATEMENTS_PER_WRITE;
    let watch = Watch::open(
        &config.kafka,
        chassis,
        Watched {
            latch: "episodes-progress",
            group: GROUP,
            topic: &topic,
            assignment: &assignment,
            stall_max: config.stall_max,
            metrics: WatchMetrics::register(&chassis.registry, WATCH_PREFIX).context("register metrics")?,
        },
    )?;
    consumer.subscribe(&[&topic]).context("subscribe to alerts")?;
    let is_away = Arc::new(AtomicBool::new(false));
    let latch = chassis.readiness.latch("episodes");
    latch.open();
    let episodes = Episodes {
        consumer: Arc::clone(&consumer),
        topic: topic.clone(),
        assignment,
        commits: Arc::clone(&commits),
        store: EpisodeStore::new(pool, answer_max),
        dead_letters: dead_letters.clone(),
        metrics: metrics.clone(),
        latch,
        is_away: Arc::clone(&is_away),
        held: Held::default(),
    };
    let dead_letters = dead_letters.clone();
    tasks.spawn(commits.keep(consumer, topic));
    tasks.spawn(watch.run(move |_| !is_away.load(Ordering::Relaxed) && !dead_letters.is_away()));
    tasks.spawn(episodes.run(chassis.shutdown.clone()));
    Ok(())
}

fn consumer(
    config: &Config,
    chassis: &Chassis,
    assignment: &Assignment,
    commits: &Arc<Commits>,
) -> anyhow::Result<StreamConsumer<Member>> {
    let monitor = Monitor::new(chassis.readiness.latch("kafka-alerts"));
    let leaving = Arc::clone(commits);
    // A batch under way is delivered again to the next owner, which changes nothing; nobody waits for it.
    let member = Member::new(monitor, assignment.clone()).revoking(Box::new(move |partitions, _| {
        leaving.revoke(partitions);
        leaving.let_go();
    }));
    let mut settings = config.kafka.consumer(GROUP);
    settings
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        .set("queued.max.messages.kbytes", QUEUE_KIB_MAX)
        .set("partition.assignment.strategy", "cooperative-sticky");
    if let Some(instance_id) = &config.instance_id {
        settings.set("group.instance.id", instance_id);
    }
    settings.create_with_context(member).context("create the alerts consumer")
}

impl Episodes {
    /// Writes until shutdown, then waits to be dropped with the service.
    async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            let gathered = shutdown.run_until_cancelled(self.gather()).await;
            let Some(batch) = gathered else { break };
            let mode = if shutdown.is_cancelled() { CommitMode::Sync } else { CommitMode::Async };
            let write = self.write_and_poll(batch, mode);
            tokio::select! {
                written = write => written?,
                () = overdue(&shutdown) => {
                    tracing::warn!("not all alerts at hand are stored; they will be delivered again");
                    break;
                }
            }
        }
        std::future::pending().await // the router ends the service
    }

    /// Waits for a record, and takes what is there at this moment.
    async fn gather(&mut self) -> Vec<Taken> {
        let mut batch = std::mem::take(&mut self.held.records);
        while batch.is_empty() {
            // One that comes back to us comes as it was left.
            self.resume();
            tokio::select! {
                next = self.next() => batch.push(next),
                () = self.assignment.changed() => {}
            }
        }
        while batch.len() < BATCH_RECORDS_MAX
            && let Some(next) = self.next().now_or_never()
        {
            batch.push(next);
        }
        batch
    }

    async fn next(&self) -> Taken {
        loop {
            match self.consumer.recv().await {
                Ok(record) => {
                    return Taken { record: record.detach(), version: self.assignment.version() };
                }
                // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                Err(error) => tracing::warn!(%error, "alerts cannot be read now"),
            }
        }
    }

    /// Writes the batch and commits its offsets; the consumer is polled meanwhile.
    async fn write_and_poll(&mut self, batch: Vec<Taken>, mode: CommitMode) -> anyhow::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        let written = tokio::select! {
            written = self.write(batch, mode) => written,
            never = self.keep_polling(&mut held) => match never {},
        };
        self.held = held;
        self.resume();
        written
    }

    /// Polls a consumer whose partitions are paused. A record that comes all the same, of a partition that
    /// has just been assigned, waits for the next batch.
    async fn keep_polling(&self, held: &mut Held) -> Infallible {
        sleep(PAUSE_AFTER).await;
        loop {
            let partitions = self.assignment.partitions();
            if let Err(error) = self.consumer.pause(&self.list(&partitions)) {
                // They are ours no more; the handover is under way.
                tracing::debug!(%error, "cannot pause alerts");
            }
            held.paused.extend(partitions);
            self.assignment.set_paused(&held.paused);
            // An assignment makes no record, so it is looked for as well.
            if let Ok(next) = timeout(PAUSE_AFTER, self.next()).await {
                held.records.push(next);
            }
        }
    }

    /// Resumes what was paused and is ours.
    fn resume(&mut self) {
        let assigned = self.assignment.partitions();
        let (ours, others): (BTreeSet<i32>, BTreeSet<i32>) =
            self.held.paused.iter().partition(|partition| assigned.contains(partition));
        if !ours.is_empty() {
            if let Err(error) = self.consumer.resume(&self.list(&ours)) {
                tracing::debug!(%error, "cannot resume alerts");
            }
            self.held.paused = others;
            self.assignment.set_paused(&self.held.paused);
        }
    }

    fn list(&self, partitions: &BTreeSet<i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    /// Returns when every record is in a row, a dead letter, or skipped, and its offset is sent.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    async fn write(&self, batch: Vec<Taken>, mode: CommitMode) -> anyhow::Result<()> {
        let mut done = BTreeMap::new();
        for Taken { record, version } in &batch {
            done.insert(record.partition(), Done { next: record.offset() + 1, version: *version });
        }
        let (rows, mut rejected) = self.read(batch);
        match self.write_when_available(&rows).await {
            Ok(()) => {}
            // Each by itself, so that the good ones are written.
            Err(Error::Refused(_)) => {
                for (id, refused) in rows {
                    let one = [(id, refused)].into();
                    match self.write_when_available(&one).await {
                        Ok(()) => {}
                        Err(error @ Error::Refused(_)) => rejected.extend(reject(one, &error)),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.dead_letters.send_all(&rejected).await;
        self.commits.commit(&self.consumer, &self.topic, &done, mode);
        Ok(())
    }

    /// Reads the records of a batch into rows, ordered by id, so that two writers lock rows in one order.
    fn read(&self, batch: Vec<Taken>) -> (Rows, Vec<Rejected>) {
        let (mut rows, mut rejected) = (Rows::new(), Vec::new());
        for taken in batch {
            match row::decode(taken.record.payload()) {
                Ok(row) => {
                    let (row, mut records) = match rows.remove(&row.episode_id) {
                        Some((there, records)) => (there.join(row), records),
                        None => (row, Vec::new()),
                    };
                    records.push(taken);
                    rows.insert(row.episode_id, (row, records));
                }
                Err(error) => match error.reason() {
                    Some(reason) => rejected.push(taken.reject(reason, error.to_string())),
                    None => self.metrics.alerts_without_episode.inc(),
                },
            }
        }
        (rows, rejected)
    }

    /// Tries the same rows until the database takes or refuses them.
    async fn write_when_available(&self, rows: &Rows) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let set_up = |is_up: bool| {
            self.is_away.store(!is_up, Ordering::Relaxed);
            if is_up { self.latch.open() } else { self.latch.close() }
        };
        let mut supervisor = Supervisor::new("database is away; episodes wait")
            .counting(&self.metrics.episode_retries)
            .telling(&set_up);
        let changed =
            supervisor.run(Error::disposition, |_| self.store.write(rows.values().map(|(row, _)| row))).await;
        if matches!(changed, Err(Error::Refused(_))) {
            set_up(true); // it answers
        }
        self.metrics.episodes_changed.inc_by(changed?);
        Ok(())
    }
}

impl Taken {
    fn reject(self, reason: crate::batch::Reason, detail: String) -> Rejected {
        Rejected { record: self.record, reason, detail, version: self.version }
    }
}

fn reject(rows: Rows, error: &Error) -> Vec<Rejected> {
    let rejected = |taken: Taken| {
        let (reason, detail) = error.rejection();
        taken.reject(reason, detail)
    };
    rows.into_values().flat_map(|(_, records)| records).map(rejected).collect()
}

/// Waits until a drain has taken too long.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(DRAIN_MAX).await;
}

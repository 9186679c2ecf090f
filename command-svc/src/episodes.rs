//! Kafka `iot-alerts` → table `alert_episodes`.
//!
//! It runs beside the readings, with a consumer group, a connection and a latch of its own: neither waits for
//! the other, and the stall of one does not hide that of the other. An alert that cannot be a row is a dead
//! letter; one of before there were episodes is counted and skipped.

pub mod row;
pub mod store;

use crate::batch::{Reason, Rejected};
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::store::Error;
use crate::{Config, STATEMENTS_PER_WRITE};
use anyhow::Context;
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::kafka::{Assignment, Batches, Monitor, Taken, Watch, WatchMetrics, Watched, done_of};
use chassis::retry::Supervisor;
use rdkafka::consumer::CommitMode;
use rdkafka::message::Message as _;
use row::Row;
use schema::topics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::EpisodeStore;
use tokio::task::JoinSet;
use tokio::time::sleep;
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
/// Longest drain after a shutdown, for what is being written; the rest is delivered again.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Writes episodes.
struct Episodes {
    store: EpisodeStore,
    dead_letters: DeadLetters,
    metrics: Metrics,
    latch: Latch,
    is_away: Arc<AtomicBool>,
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
    let mut settings = config.kafka.consumer(GROUP);
    settings.set("queued.max.messages.kbytes", QUEUE_KIB_MAX);
    if let Some(instance_id) = &config.instance_id {
        settings.set("group.instance.id", instance_id);
    }
    let monitor = Monitor::new(chassis.readiness.latch("kafka-alerts"));
    let batches = Batches::join(settings, &topic, &assignment, monitor, BATCH_RECORDS_MAX)?;
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
    let pool = config.postgres.clone().with_connections_max(CONNECTIONS_MAX).pool()?;
    let answer_max = config.postgres.statement_max() * STATEMENTS_PER_WRITE;
    let is_away = Arc::new(AtomicBool::new(false));
    let latch = chassis.readiness.latch("episodes");
    latch.open();
    let episodes = Episodes {
        store: EpisodeStore::new(pool, answer_max),
        dead_letters: dead_letters.clone(),
        metrics: metrics.clone(),
        latch,
        is_away: Arc::clone(&is_away),
    };
    let dead_letters = dead_letters.clone();
    tasks.spawn(batches.keep_commits());
    tasks.spawn(watch.run(move |_| !is_away.load(Ordering::Relaxed) && !dead_letters.is_away()));
    tasks.spawn(episodes.run(batches, chassis.shutdown.clone()));
    Ok(())
}

impl Episodes {
    /// Writes until shutdown, then waits to be dropped with the service.
    async fn run(self, mut batches: Batches, shutdown: CancellationToken) -> anyhow::Result<()> {
        while let Some(batch) = shutdown.run_until_cancelled(batches.gather()).await {
            let done = done_of(&batch);
            tokio::select! {
                written = batches.during(self.write(batch)) => written?,
                () = overdue(&shutdown) => {
                    tracing::warn!("not all alerts at hand are stored; they will be delivered again");
                    break;
                }
            }
            let mode = if shutdown.is_cancelled() { CommitMode::Sync } else { CommitMode::Async };
            batches.commit(&done, mode);
        }
        std::future::pending().await // the router ends the service
    }

    /// Returns when every record is in a row, a dead letter, or skipped.
    ///
    /// # Errors
    /// The database does not fit this build (stop).
    async fn write(&self, batch: Vec<Taken>) -> anyhow::Result<()> {
        let (rows, mut rejected) = self.read(batch);
        match self.write_when_available(&rows).await {
            Ok(()) => {}
            // Each by itself, so that the good ones are written.
            Err(Error::Refused(_)) => {
                for (id, refused) in rows {
                    let one = [(id, refused)].into();
                    match self.write_when_available(&one).await {
                        Ok(()) => {}
                        Err(error @ Error::Refused(_)) => rejected.extend(reject_all(one, &error)),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.dead_letters.send_all(&rejected).await;
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
                    Some(reason) => rejected.push(reject(taken, reason, error.to_string())),
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

fn reject(taken: Taken, reason: Reason, detail: String) -> Rejected {
    Rejected { record: taken.record, reason, detail, version: taken.version }
}

fn reject_all(rows: Rows, error: &Error) -> Vec<Rejected> {
    let rejected = |taken: Taken| {
        let (reason, detail) = error.rejection();
        reject(taken, reason, detail)
    };
    rows.into_values().flat_map(|(_, records)| records).map(rejected).collect()
}

/// Waits until a drain has taken too long.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(DRAIN_MAX).await;
}

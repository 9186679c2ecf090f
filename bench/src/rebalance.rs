//! A rolling restart of command-svc, then of alerting-svc, under load: the longest pause of a partition's
//! rows and alerts, and what was written twice.
//!
//! The programs are those of a folder: two builds are compared by two runs on one quiet machine.

mod instance;
mod load;
mod options;
mod pauses;
mod watch;

use crate::topic::Topic;
use anyhow::{Context as _, Result, ensure};
use chassis::kafka;
use instance::{Instance, Service};
use load::Offered;
use options::Options;
use schema::topics::{self, Partitions};
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use watch::Watch;

/// What the sensors measure.
const METRIC: &str = "temperature";
/// Time after the last reading within which every row and alert is there.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// Interval between two looks at what is still missing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Holds what every part of the measurement shares.
struct Stage {
    options: Options,
    kafka: kafka::Settings,
    database_url: String,
    /// The partition of each watched sensor.
    watched: BTreeMap<String, i32>,
    /// Rows that were stored already when they were written, as each instance has counted them.
    written_twice: Mutex<Vec<Arc<AtomicU64>>>,
}

/// Measures what the arguments ask for and prints a line of the table.
#[must_use]
pub fn main() -> ExitCode {
    crate::main_of("bench-rebalance", run)
}

async fn run(options: Options) -> Result<()> {
    let stage = Stage::set(options).await?;
    load::put_thresholds(&stage).await?;
    let command = Service::Command.start(&stage).await?;
    let alerting = Service::Alerting.start(&stage).await?;
    let (rows, alerts) = (Watch::rows(&stage).await?, Watch::alerts(&stage)?);
    let stop = CancellationToken::new();
    let restarts = async {
        // The end of the restarts, with or without an error, ends the load.
        let _stop = stop.clone().drop_guard();
        let steady = steady(&stage).await;
        let (command, rows_window) = roll(&stage, command).await?;
        let (alerting, alerts_window) = roll(&stage, alerting).await?;
        anyhow::Ok(([command, alerting], [steady, rows_window, alerts_window]))
    };
    let (offered, restarts) = tokio::join!(load::offer(&stage, &stop), restarts);
    let (offered, (instances, [steady, rows_window, alerts_window])) = (offered?, restarts?);
    let stored = drain(&stage, &offered, &alerts).await?;
    for instance in instances.into_iter().flatten() {
        instance.stop().await?;
    }
    let pauses = |watch: &Watch, window: &Range<Instant>| {
        watch.look(|seen| pauses::longest(&seen.arrivals, window.clone()).as_secs_f64() * 1e3)
    };
    let twice = alerts.look(|seen| seen.alerts.values().filter(|count| **count > 1).count())?;
    let alerted = alerts.look(|seen| seen.alerts.len())?;
    println!(
        "| build | readings | rows: longest pause, steady | in the restart | written twice | missing | \
         alerts | longest pause, steady | in the restart | twice | missing |\n|{}",
        "---|".repeat(11)
    );
    println!(
        "| {} | {} | {:.0} ms | {:.0} ms | {} | {} | {alerted} | {:.0} ms | {:.0} ms | {twice} | {} |",
        stage.options.label,
        offered.readings,
        pauses(&rows, &steady)?,
        pauses(&rows, &rows_window)?,
        stage.written_twice(),
        offered.readings - stored,
        pauses(&alerts, &steady)?,
        pauses(&alerts, &alerts_window)?,
        offered.watched.len().saturating_sub(alerted),
    );
    Ok(())
}

/// Lets the load run as it is for a time; its first half is for getting warm.
async fn steady(stage: &Stage) -> Range<Instant> {
    let time = stage.between();
    sleep(time).await;
    let begin = Instant::now();
    sleep(time).await;
    begin..Instant::now()
}

/// Restarts the instances one after the other, each when the one before has been ready for a time.
async fn roll(stage: &Stage, instances: Vec<Instance>) -> Result<(Vec<Instance>, Range<Instant>)> {
    let (begin, mut restarted) = (Instant::now(), Vec::new());
    for instance in instances {
        restarted.push(instance.restart(stage).await?);
        sleep(stage.between()).await;
    }
    Ok((restarted, begin..Instant::now()))
}

/// Waits until every row and alert is there, or for as long as that may take; returns how many rows there
/// are.
async fn drain(stage: &Stage, offered: &Offered, alerts: &Watch) -> Result<i64> {
    let client = chassis::postgres::Settings::local(&stage.database_url).connect().await?;
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let stored: i64 = client.query_one("SELECT count(*) FROM readings_ingestion", &[]).await?.get(0);
        let is_alerted =
            alerts.look(|seen| offered.watched.iter().all(|event| seen.alerts.contains_key(event)))?;
        if stored >= offered.readings && is_alerted || Instant::now() > deadline {
            return Ok(stored);
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Stage {
    async fn set(mut options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.folder).context("make the folder of logs")?;
        options.folder = options.folder.canonicalize().context("find the folder of logs")?;
        let run = iotctl::files::random_name(6);
        let kafka = kafka::Settings::local(&options.kafka_bootstrap, format!("bench-{run}-"));
        for topic in topics::ALL {
            let partitions = match topic.partitions {
                Partitions::Scaled => options.partitions,
                Partitions::Single => 1,
            };
            Topic::create(&kafka, topic.name, partitions).await?;
        }
        Topic::create(&kafka, "places", options.partitions).await?;
        let database_url = create_database(&options, &format!("bench_{}", run.to_lowercase())).await?;
        let written_twice = Mutex::default();
        let mut stage = Self { options, kafka, database_url, watched: BTreeMap::new(), written_twice };
        stage.watched = load::watched(&stage).await?;
        Ok(stage)
    }

    /// Returns a counter of one more instance.
    fn count_of_written_twice(&self) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        self.written_twice.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&count));
        count
    }

    fn written_twice(&self) -> u64 {
        let counts = self.written_twice.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn between(&self) -> Duration {
        Duration::from_secs(self.options.steady_seconds.into())
    }
}

/// Makes a database whose schema is that of the build that is measured.
async fn create_database(options: &Options, name: &str) -> Result<String> {
    let admin = chassis::postgres::Settings::local(&options.database_url).connect().await?;
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.context("create a database")?;
    let (base, _) = options.database_url.rsplit_once('/').context("the database URL has no /database")?;
    let url = format!("{base}/{name}");
    let iotctl = options.program("iotctl");
    let mut migrate = Command::new(&iotctl);
    let output = migrate.arg("migrate").env("DATABASE_URL", &url).output().await;
    let output = output.with_context(|| format!("run {}", iotctl.display()))?;
    ensure!(output.status.success(), "iotctl migrate: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(url)
}

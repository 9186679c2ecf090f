//! Kafka `iot-reading-topic` → Parquet files by day, in a folder or a bucket.
//!
//! In:         topic `iot-reading-topic`, group `lake-svc`.
//! Out:        objects `readings/day=…/part=…/….parquet` and `cuts/part=…/….json`; nothing else writes them.
//! Guarantee:  each record of Kafka is in one file, once: the store says which offsets are done, the group's
//!             offsets are for looking at. ADR 0011.
//! On failure: store away → tried again, partitions pause, group membership stays, not ready. Undecodable →
//! counted and
//!             left out (command-svc keeps it as a dead letter). Kafka away → waits. Topic made anew → stops.

pub mod buffer;
mod config;
pub mod cut;
pub mod file;
pub mod lake;
mod metrics;
mod partition;
mod session;
mod work;

pub use config::Config;
pub use metrics::Metrics;

use anyhow::{Context, bail};
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::kafka::{
    Assignment, Commits, Member, Monitor, REPORT_INTERVAL_MS, Watch, WatchMetrics, Watched,
};
use chassis::retry::Supervisor;
use lake::Lake;
use rdkafka::consumer::{Consumer, StreamConsumer};
use schema::topics;
use session::{Group, Session};
use std::sync::{Arc, PoisonError};
use tokio_util::sync::CancellationToken;
use work::Work;

/// Runs until shutdown.
///
/// # Errors
/// The store cannot keep the guarantee, the topic is not the one that the lake was filled from, or a client
/// cannot be made (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let latch = chassis.readiness.latch("lake");
    let monitor = Monitor::new(chassis.readiness.latch("kafka"));
    let lake = Lake::open(&config.location, config.store_answer_max)?;
    if !is_usable(&lake, &latch, &chassis.shutdown).await? {
        return Ok(());
    }
    let assignment = Assignment::default();
    let consumer: StreamConsumer<Member> = config
        .kafka
        .consumer("lake-svc")
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        // A rebalance takes away only what moves; the other partitions keep what they have gathered.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .create_with_context(Member::new(monitor, assignment.clone()))
        .context("create the readings consumer")?;
    let topic = config.kafka.topic(topics::READINGS.name);
    consumer.subscribe(&[&topic]).context("subscribe to readings")?;
    let consumer = Arc::new(consumer);
    let work = Work::new(lake, Arc::clone(&consumer), topic.clone(), latch, metrics.clone());
    let watched = Watched {
        latch: "progress",
        group: "lake-svc",
        topic: &topic,
        assignment: &assignment,
        stall_max: config.stall_max,
        metrics: WatchMetrics::register(&chassis.registry, "lake").context("register metrics")?,
    };
    let watch = Watch::open(&config.kafka, &chassis, watched)?;
    let commits = Arc::new(Commits::new(assignment.clone()));
    let keep = Arc::clone(&commits).keep(Arc::clone(&consumer), topic.clone());
    let group = Group { consumer, topic, assignment, commits };
    let session = Session::new(group, work, config.limits, config.buffer_bytes_max, metrics);
    let gathering = session.gathering();
    let is_free = |partition| {
        let away = ["kafka", "lake"];
        !gathering.lock().unwrap_or_else(PoisonError::into_inner).contains(&partition)
            && !chassis.readiness.closed().iter().any(|latch| away.contains(latch))
    };
    tokio::select! {
        ended = session.run(&chassis) => ended,
        never = watch.run(is_free) => never,
        never = keep => never,
    }
}

/// Lists the names of the service's metrics, which dashboards and documents are held against.
pub fn metric_names() -> Vec<String> {
    [Metrics::names(), WatchMetrics::names("lake")].concat()
}

/// Waits until the store answers; false when the shutdown came first.
async fn is_usable(lake: &Lake, latch: &Latch, shutdown: &CancellationToken) -> anyhow::Result<bool> {
    let ask = |_| async {
        lake.tidy().await?;
        Ok::<_, lake::Error>(lake.creates_only_once().await?)
    };
    let mut supervisor = Supervisor::new("store is away; trying again").until(shutdown);
    match supervisor.run(lake::Error::disposition, ask).await {
        Ok(true) => {
            latch.open();
            Ok(true)
        }
        Ok(false) => bail!(
            "the store overwrites what it was asked to create only once (If-None-Match): two instances could each \
             write the same readings; use a store that has conditional writes"
        ),
        // The store was away until the shutdown.
        Err(_) => Ok(false),
    }
}

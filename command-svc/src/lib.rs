//! Kafka `iot-reading-topic` → table `readings_ingestion`, in batches; beside it `iot-alerts` → episodes.
//!
//! In:         topic `iot-reading-topic`, group `command-svc`; topic `iot-alerts`, group
//!             `command-svc-episodes`.
//! Out:        tables `readings_ingestion`, `sensor_latest`, and unless TimescaleDB keeps it
//!             `sensor_reading_hourly_aggregates`; from alerts `alert_episodes`; nothing else writes them.
//!             Topic `iot-reading-dlq`.
//! Guarantee:  effectively once: offsets are committed after the rows, and a redelivered reading inserts no
//!             rows.
//! On failure: database away → the batch is tried again, partitions pause, group membership stays, not ready.
//!             Undecodable, unstorable, past retention, or refused by the database on its own after three
//!             tries → dead letter. Kafka away → waits. A partition that stands still without a reason → not
//!             ready, then not live.

mod accumulator;
pub mod batch;
pub mod columns;
mod config;
mod dead_letter;
pub mod episodes;
mod in_flight;
mod interner;
mod lane;
mod lanes;
pub mod maintenance;
mod metrics;
pub mod parcel;
mod pending;
pub mod retention;
pub mod rollup;
mod router;
pub mod store;
mod writer;

pub use config::Config;
pub use metrics::Metrics;

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Assignment, Member, Monitor, REPORT_INTERVAL_MS, Watch, WatchMetrics, Watched};
use dead_letter::DeadLetters;
use in_flight::InFlight;
use lane::Lane;
use lanes::Lanes;
use maintenance::Maintenance;
use pending::Pending;
use rdkafka::consumer::{Consumer, StreamConsumer};
use router::{LANE_PARCELS_MAX, LaneSender, Router};
use schema::{migrations, topics};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use writer::Writer;

/// The group that reads the topic for the tables.
const GROUP: &str = "command-svc";
/// Wait before more is fetched of a partition whose records fill the client's queue. By librdkafka's default
/// it is a second, in which the lanes of other partitions, which have none waiting, may run dry.
const FETCH_BACKOFF_MS: &str = "20";
/// Statements whose time a write may take before its server counts as lost.
const STATEMENTS_PER_WRITE: u32 = 2;
/// Longest drain after a shutdown, for what is being written and what is at hand; the rest is delivered
/// again.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Runs until shutdown.
///
/// # Errors
/// The schema is not the one this build needs, or a client cannot be made (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let latch = chassis.readiness.latch("postgres");
    let pool = config.postgres.pool()?;
    if !chassis::postgres::wait_for_version(&pool, migrations::VERSIONS, &chassis.shutdown).await? {
        return Ok(());
    }
    let mut stores = Vec::new();
    for _ in 0..config.writers {
        let opened = chassis.shutdown.run_until_cancelled(store::open_when_available(&pool)).await;
        let Some(store) = opened.transpose()? else { return Ok(()) };
        stores.push(store.with_answer_max(config.postgres.statement_max() * STATEMENTS_PER_WRITE));
    }
    let topic = config.kafka.topic(topics::READINGS.name);
    let assignment = Assignment::default();
    let in_flight = Arc::new(InFlight::new(assignment.clone()));
    let lanes = Arc::new(Lanes::new(config.writers, latch));
    let consumer = Arc::new(consumer(&config, &chassis, &in_flight)?);
    let dead_letters =
        DeadLetters::open(&config.kafka, metrics.clone(), chassis.readiness.latch("dead-letters"))?;
    let overdue = CancellationToken::new();

    let (mut writing, mut senders) = (JoinSet::new(), Vec::new());
    for (number, store) in stores.into_iter().enumerate() {
        let (sender, parcels) = mpsc::channel(LANE_PARCELS_MAX);
        let lane = Lane {
            parcels,
            consumer: Arc::clone(&consumer),
            in_flight: Arc::clone(&in_flight),
            topic: topic.clone(),
            writer: Writer {
                store,
                dead_letters: dead_letters.clone(),
                lanes: Arc::clone(&lanes),
                lane: number,
                metrics: metrics.clone(),
                refused_wait_first: config.data_retry_first,
            },
            limits: config.limits,
            retention: config.retention,
            pending: Pending::default(),
            overdue: overdue.clone(),
        };
        writing.spawn(lane.run());
        senders.push(LaneSender::new(sender, &topic));
    }
    let mut beside = watch_and_maintain(&config, &chassis, &assignment, &lanes, &dead_letters, &metrics)?;
    episodes::start(&config, &chassis, &dead_letters, &metrics, &mut beside)?;
    beside.spawn(Arc::clone(&in_flight.commits).keep(Arc::clone(&consumer), topic.clone()));
    consumer.subscribe(&[&topic]).context("subscribe to readings")?;
    let router = Router::new(Arc::clone(&consumer), topic, assignment, lanes, senders);
    first_to_end(router.run(&chassis), &mut writing, &mut beside).await?;
    // Bounds a write that hangs in the database or in Kafka.
    let drained = timeout(DRAIN_MAX, join_all(&mut writing)).await;
    overdue.cancel();
    match drained {
        Ok(drained) => drained,
        Err(_) => join_all(&mut writing).await,
    }
}

/// Lists the names of the service's metrics, which dashboards and documents are held against.
pub fn metric_names() -> Vec<String> {
    [Metrics::names(), WatchMetrics::names("command"), WatchMetrics::names(episodes::WATCH_PREFIX)].concat()
}

/// Makes the consumer, whose group hands over a few partitions at a time and leaves the others where they
/// are.
fn consumer(
    config: &Config,
    chassis: &Chassis,
    in_flight: &Arc<InFlight>,
) -> anyhow::Result<StreamConsumer<Member>> {
    let monitor = Monitor::new(chassis.readiness.latch("kafka"));
    let mut settings = config.kafka.consumer(GROUP);
    settings
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        .set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS)
        .set("partition.assignment.strategy", "cooperative-sticky");
    if let Some(instance_id) = &config.instance_id {
        settings.set("group.instance.id", instance_id);
    }
    settings.create_with_context(in_flight.member(monitor)).context("create the readings consumer")
}

/// Starts what runs beside the router and the lanes; it ends with what is returned.
fn watch_and_maintain(
    config: &Config,
    chassis: &Chassis,
    assignment: &Assignment,
    lanes: &Arc<Lanes>,
    dead_letters: &DeadLetters,
    metrics: &Metrics,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let watched = Watched {
        latch: "progress",
        group: GROUP,
        topic: &config.kafka.topic(topics::READINGS.name),
        assignment,
        stall_max: config.stall_max,
        metrics: WatchMetrics::register(&chassis.registry, "command").context("register metrics")?,
    };
    let watch = Watch::open(&config.kafka, chassis, watched)?;
    let maintenance = Maintenance {
        postgres: config.postgres.clone(),
        retention: config.retention,
        episode_days: config.episode_days,
        days_ahead: config.partitions_ahead_days,
        every: config.maintenance_every,
        metrics: metrics.clone(),
    };
    let (lanes, dead_letters) = (Arc::clone(lanes), dead_letters.clone());
    let shutdown = chassis.shutdown.clone();
    let mut beside = JoinSet::new();
    beside.spawn(watch.run(move |partition| lanes.is_free(partition) && !dead_letters.is_away()));
    beside.spawn(async move {
        maintenance.run(shutdown).await;
        std::future::pending().await // the router ends the service
    });
    Ok(beside)
}

/// Returns when the router ends. A lane, the watch or the maintenance ends before it only when it fails or
/// panics.
async fn first_to_end(
    router: impl Future<Output = anyhow::Result<()>>,
    lanes: &mut JoinSet<anyhow::Result<()>>,
    beside: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        routed = router => routed,
        Some(ended) = lanes.join_next() => ended.context("run a lane")?,
        Some(ended) = beside.join_next() => ended.context("watch and maintain")?,
    }
}

async fn join_all(lanes: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = lanes.join_next().await {
        ended.context("run a lane")??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn a_lane_or_a_helper_that_panics_ends_the_process() {
        for is_lane in [true, false] {
            let (mut lanes, mut beside) = (JoinSet::new(), JoinSet::new());
            lanes.spawn(pending());
            beside.spawn(pending());
            let set = if is_lane { &mut lanes } else { &mut beside };
            set.spawn(async { panic!("a fault of ours") });
            let ended = first_to_end(pending(), &mut lanes, &mut beside).await.unwrap_err();
            assert!(format!("{ended:#}").contains("a fault of ours"), "{ended:#}");
        }
    }

    #[tokio::test]
    async fn a_panic_during_the_drain_is_no_clean_end() {
        let mut lanes = JoinSet::new();
        lanes.spawn(async { Ok(()) });
        lanes.spawn(async { panic!("a fault of ours") });
        assert!(join_all(&mut lanes).await.is_err());
    }
}

//! Kafka `iot-reading-topic` → table `readings_ingestion`, in batches.
//!
//! In:         topic `iot-reading-topic`, group `command-svc`.
//! Out:        tables `readings_ingestion`, `sensor_latest`, and unless TimescaleDB keeps it
//!             `sensor_reading_hourly_aggregates`; nothing else writes them. Topic `iot-reading-dlq`.
//! Guarantee:  effectively once: offsets are committed after the rows, and a redelivered reading inserts no rows.
//! On failure: database away → the batch is tried again, partitions pause, group membership stays, not ready.
//!             Undecodable, past retention, or refused by the database on its own after three tries → dead letter.
//!             Kafka away → waits.

pub mod batch;
pub mod columns;
mod config;
mod dead_letter;
mod filling;
mod lane;
pub mod maintenance;
mod metrics;
mod names;
pub mod parcel;
pub mod retention;
pub mod rollup;
mod router;
pub mod store;
mod writer;

pub use config::Config;
pub use metrics::Metrics;

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Monitor, REPORT_INTERVAL_MS};
use dead_letter::DeadLetters;
use lane::Lane;
use maintenance::Maintenance;
use rdkafka::consumer::{Consumer, StreamConsumer};
use router::{Inlet, LANE_PARCELS_MAX};
use schema::{migrations, topics};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use writer::Writer;

/// A partition whose records wait in the client's full queue is asked for more so soon. By librdkafka's default it is a
/// second, in which the lanes of other partitions, which have none waiting, may run dry.
const FETCH_BACKOFF_MS: &str = "20";
/// A write that takes as long as so many statements may take has lost its server.
const STATEMENTS_PER_WRITE: u32 = 2;

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
    let monitor = Monitor::new(chassis.readiness.latch("kafka"), metrics.lag_records.clone());
    let consumer: StreamConsumer<Monitor> = config
        .kafka
        .consumer("command-svc")
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        .set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS)
        .create_with_context(monitor)
        .context("create the readings consumer")?;
    let consumer = Arc::new(consumer);
    let topic = config.kafka.topic(topics::READINGS.name);
    let dead_letters = DeadLetters::open(&config.kafka, metrics.clone())?;

    let (mut lanes, mut inlets) = (JoinSet::new(), Vec::new());
    for _ in 0..config.writers {
        let (sender, parcels) = mpsc::channel(LANE_PARCELS_MAX);
        let store = store::open_when_available(&pool).await?;
        let store = store.with_answer_max(config.postgres.statement_max() * STATEMENTS_PER_WRITE);
        let writer =
            Writer::new(store, dead_letters.clone(), latch.clone(), metrics.clone(), config.data_retry_first);
        let lane = Lane {
            parcels,
            consumer: Arc::clone(&consumer),
            topic: topic.clone(),
            writer,
            limits: config.limits,
            retention: config.retention,
        };
        lanes.spawn(lane.run());
        inlets.push(Inlet::new(sender, &topic));
    }
    let maintenance = Maintenance {
        postgres: config.postgres.clone(),
        retention: config.retention,
        days_ahead: config.partitions_ahead_days,
        every: config.maintenance_every,
        metrics: metrics.clone(),
    };
    let mut maintained = JoinSet::new(); // ends with this function
    maintained.spawn(maintenance.run(chassis.shutdown.clone()));
    latch.open();
    consumer.subscribe(&[&topic]).context("subscribe to readings")?;
    tokio::select! {
        routed = router::route(&consumer, inlets, &chassis) => routed?,
        // A lane ends before the router only when it fails.
        Some(ended) = lanes.join_next() => ended.context("run a lane")??,
    }
    while let Some(ended) = lanes.join_next().await {
        ended.context("run a lane")??;
    }
    Ok(())
}

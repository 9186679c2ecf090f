//! Topic `iot-reading-topic` joined with the table `iot-threshold-updates` → topic `iot-alerts`.
//!
//! In:         readings, group `alerting-svc`; the thresholds, all of them in every instance, read to their
//!             end before the first reading and followed live, so a change is in force for readings that
//!             arrive after it.
//! Out:        `iot-alerts`, key `sensor_id`, in the partition of the reading. A record that is no reading is
//!             counted; command-svc keeps it in `iot-reading-dlq`, which has one writer. Every threshold
//!             whose scope covers the sensor alerts, the most specific first; one in mode shadow is evaluated
//!             and counted only.
//! Guarantee:  alerts and offsets go in one Kafka transaction: for `read_committed` consumers none is lost
//!             and none comes twice, under kill -9 and rebalances. A reading that is *published* twice causes
//!             no second alert as long as the first is remembered, see below.
//! On failure: A threshold's change that cannot be read → the one before stays in force, not ready (ADR
//!             0014). Kafka away, or a transaction that has to be aborted → begin again from the committed
//!             offsets, not ready. Another instance with the same `INSTANCE_ID`, or topics with different
//!             partition counts → stop.
//!
//! # Readings that are published twice
//!
//! Devices and gateways send again what was not acknowledged, with the same event id. Offsets cannot
//! recognise that, so alerts are deduplicated by threshold and event:
//!
//! * *What.* The last [`Config::alerts_remembered`] alerts of each partition: a second publication must
//!   follow before that number of further alerts of its partition. At one alert per second and partition, the
//!   default 10,000 reach back almost three hours; at a steady storm of a hundred per second, a hundred
//!   seconds.
//! * *Where it survives.* `iot-alerts` itself is the store. Readings and alerts are co-partitioned: an alert
//!   goes to the partition number that its reading came from, which for the key `sensor_id` is also where the
//!   partitioner would put it. The instance that is assigned a partition of readings first reads the tail of
//!   the same partition of alerts.
//! * *Why it is whole.* That read waits until the stable end has reached the end that the partition had at
//!   the assignment, so it sees every alert of the former owner, or sees it aborted (see `restore`). No
//!   reading of the partition is evaluated before.
//! * *When it is wrong.* The alerts of the open transaction are kept apart until it is committed, and an
//!   abort forgets them. A commit without an answer ends the session, and what it knew with it.
//!
//! # Rebalances
//!
//! They are cooperative: a partition that stays goes on while others move. One that comes is paused until its
//! last alerts are restored, and holds up no other. One that goes takes its readings out of the open
//! transaction: that is aborted, and the readings of the partitions that stay are read and evaluated again.
//!
//! # Why a former owner cannot commit late
//!
//! Offsets are committed with the group generation of the last assignment that this instance was told of.
//! After a rebalance the broker refuses that generation, and with the offsets falls the whole transaction;
//! its readings are evaluated again once the new assignment is known. A partition goes to another member only
//! when its owner has given it up, or was thrown out of the group and with it out of the generation.

mod batch;
mod commit;
mod config;
mod consumer;
mod failure;
mod metrics;
mod restore;
mod session;
mod shared;
mod thresholds;

pub use config::Config;

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Assignment, Watch, WatchMetrics, Watched, table};
use metrics::Metrics;
use rules::Rules;
use schema::topics;
use shared::Shared;
use std::sync::{Arc, RwLock};
use thresholds::Thresholds;
use tokio::sync::oneshot;

/// The consumer group, and the stem of every transactional id.
const GROUP: &str = "alerting-svc";
/// The reader of the table of thresholds, which is in no group.
const TABLE_READER: &str = "alerting-svc-thresholds";

/// Consumes readings, evaluates them and commits their alerts until the shutdown: the table of thresholds is
/// loaded, then sessions of consume → evaluate → commit are supervised beside it.
///
/// # Errors
/// A client cannot be made, the topics do not fit, or another instance has our name (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let rules = Arc::new(RwLock::new(Rules::default()));
    chassis.readiness.latch("kafka").close();
    // The end of this function, for whatever reason, also ends the session's thread.
    let stop = chassis.shutdown.child_token();
    let _guard = stop.clone().drop_guard();

    let (topic, assignment) = (config.kafka.topic(topics::THRESHOLD_UPDATES.name), Assignment::default());
    let thresholds_watch = watch(
        &config,
        &chassis,
        "thresholds-progress",
        TABLE_READER,
        &topic,
        &assignment,
        "alerting_thresholds",
    )?;
    let latch = chassis.readiness.latch("thresholds");
    let source =
        table::Source { reader: TABLE_READER, topic: &topic, latch: &latch, assignment: &assignment };
    let readable = chassis.readiness.latch("thresholds-readable");
    let thresholds = Thresholds::new(Arc::clone(&rules), metrics.clone(), readable);
    let (loaded, wait_loaded) = oneshot::channel();
    // Err means that the sessions have ended already.
    let on_loaded = || loaded.send(()).unwrap_or_default();
    let kafka = config.kafka.clone();
    let table = table::follow(&kafka, source, &stop, |key, value| thresholds.apply(key, value), on_loaded);

    let (topic, assignment) = (config.kafka.topic(topics::READINGS.name), Assignment::default());
    let readings_watch = watch(&config, &chassis, "progress", GROUP, &topic, &assignment, "alerting")?;
    // The restore gives up by itself, and a session that ends says so: only a broker that is away stands in
    // the way.
    let is_free = |_| !chassis.readiness.closed().contains(&"kafka");
    let watches = async {
        tokio::select! {
            ended = readings_watch.run(is_free) => ended,
            ended = thresholds_watch.run(|_| true) => ended,
            () = stop.cancelled() => Ok(()),
        }
    };

    let shared = Shared { config, chassis: chassis.clone(), metrics, rules, assignment, stop: stop.clone() };
    let sessions = async {
        // Err means that the table reader ends, and with it everything.
        if wait_loaded.await.is_ok() {
            session::supervise(&shared).await?;
        }
        stop.cancel();
        Ok(())
    };
    tokio::try_join!(table, sessions, watches)?;
    Ok(())
}

/// Lists the names of the service's metrics, which dashboards and documents are held against.
pub fn metric_names() -> Vec<String> {
    let watches = ["alerting", "alerting_thresholds"].map(WatchMetrics::names);
    [Metrics::names(), watches.concat()].concat()
}

/// Watches one topic, of which `assignment` says what is read, under a latch and metrics of its own.
fn watch(
    config: &Config,
    chassis: &Chassis,
    latch: &'static str,
    group: &str,
    topic: &str,
    assignment: &Assignment,
    prefix: &str,
) -> anyhow::Result<Watch> {
    let metrics = WatchMetrics::register(&chassis.registry, prefix).context("register metrics")?;
    let watched = Watched { latch, group, topic, assignment, stall_max: config.stall_max, metrics };
    Watch::open(&config.kafka, chassis, watched)
}

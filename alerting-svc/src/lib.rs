//! Topic `iot-reading-topic` joined with tables of thresholds and devices → topics `iot-alerts` and
//! `iot-alert-state`.
//!
//! In:         readings, group `alerting-svc`; thresholds, devices and silences, all of them in every
//!             instance, read to their ends before the first reading and followed live, so a change is in
//!             force for readings that arrive after it.
//! Out:        `iot-alerts`, key `sensor_id`, and `iot-alert-state`, key threshold and sensor, both in the
//!             partition of the reading. A record that is no reading is counted; command-svc keeps it in
//!             `iot-reading-dlq`, which has one writer. The most specific thresholds of a sensor alert (ADR
//!             0022); one in mode shadow is evaluated and counted only. An alert that a silence covers is
//!             marked.
//! Guarantee:  alerts, episodes and offsets go in one Kafka transaction: for `read_committed` consumers no
//!             alert is lost and none comes twice, and an episode is closed once, under kill -9 and
//!             rebalances. A reading that is *published* twice causes no second alert as long as its episode
//!             or its alert is remembered, see below.
//! On failure: A threshold's change that cannot be read → the one before stays in force, not ready (ADR
//!             0014). Kafka away, or a transaction that has to be aborted → begin again from the committed
//!             offsets, not ready. Another instance with the same `INSTANCE_ID`, or topics with different
//!             partition counts → stop.
//!
//! # What a partition knows, and where it survives (ADR 0024)
//!
//! * *Episodes* are records of `iot-alert-state`, one for each change that a transaction made. Those that
//!   are over stay for a while, so that a reading that comes late or again does not open them anew.
//! * *When a sensor spoke last*, for thresholds that wait for its silence, is written every 50,000 readings
//!   of the partition. The readings since are read again.
//! * *Which events have caused an alert* is the tail of `iot-alerts` itself, of which the last
//!   [`Config::alerts_remembered`] of each partition are read.
//!
//! The topics are co-partitioned: who owns a partition of readings writes and restores that partition of the
//! other two. The restore waits until their stable ends have reached the ends that they had at the
//! assignment, so it sees what the former owner committed, or sees it aborted (see `restore`). No reading of
//! the partition is evaluated before. The changes of the open transaction are kept apart until it is
//! committed, and an abort undoes them. A commit without an answer ends the session, and what it knew with
//! it.
//!
//! # Time
//!
//! Readings bring event time. Where none comes, a tick fires what was due by the clock, but only when the
//! broker says that the partition has no reading which was not evaluated: no sensor is silent because we are
//! slow, or were away. What a tick says is committed like the alerts of a reading, with the partition's
//! offset, so a former owner's is refused.
//!
//! # Rebalances
//!
//! They are cooperative: a partition that stays goes on while others move. One that comes is paused until it
//! is restored, and holds up no other. One that goes takes its readings out of the open
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
mod partition;
mod restore;
mod session;
mod shared;
mod silences;
mod tables;

pub use config::Config;

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Assignment, Watch, WatchMetrics, Watched};
use metrics::Metrics;
use schema::topics;
use shared::Shared;
use tables::{TABLES, Tables};
use tokio::sync::oneshot;

/// The consumer group, and the stem of every transactional id.
const GROUP: &str = "alerting-svc";

/// Consumes readings, evaluates them and commits their alerts until the shutdown: the tables are loaded, then
/// sessions of consume → evaluate → commit are supervised beside them.
///
/// # Errors
/// A client cannot be made, the topics do not fit, or another instance has our name (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    chassis.readiness.latch("kafka").close();
    // The end of this function, for whatever reason, also ends the session's thread.
    let stop = chassis.shutdown.child_token();
    let _guard = stop.clone().drop_guard();

    let tables = Tables::new(metrics.clone(), chassis.readiness.latch("thresholds-readable"));
    let [thresholds, devices, silences] = &TABLES;
    let (loaded, wait): (Vec<_>, Vec<_>) = TABLES.iter().map(|_| oneshot::channel()).unzip();
    let [first, second, third] = <[_; 3]>::try_from(loaded).expect("one for each table");
    let followed = async {
        tokio::try_join!(
            tables.follow(thresholds, &config, &chassis, &stop, first),
            tables.follow(devices, &config, &chassis, &stop, second),
            tables.follow(silences, &config, &chassis, &stop, third),
        )
    };

    let (topic, assignment) = (config.kafka.topic(topics::READINGS.name), Assignment::default());
    let metrics_of_watch =
        WatchMetrics::register(&chassis.registry, GROUP_METRICS).context("register metrics")?;
    let watched = Watched {
        latch: "progress",
        group: GROUP,
        topic: &topic,
        assignment: &assignment,
        stall_max: config.stall_max,
        metrics: metrics_of_watch,
    };
    let watch = Watch::open(&config.kafka, &chassis, watched)?;
    // The restore gives up by itself, and a session that ends says so: only a broker that is away stands in
    // the way.
    let is_free = |_| !chassis.readiness.closed().contains(&"kafka");
    let watched = async {
        tokio::select! {
            ended = watch.run(is_free) => ended,
            () = stop.cancelled() => Ok(()),
        }
    };

    let shared = Shared {
        config: config.clone(),
        chassis: chassis.clone(),
        metrics,
        tables: tables.clone(),
        assignment: assignment.clone(),
        stop: stop.clone(),
    };
    let sessions = async {
        for loaded in wait {
            // Err means that a table's reader ends, and with it everything.
            if loaded.await.is_err() {
                stop.cancel();
            }
        }
        if !stop.is_cancelled() {
            session::supervise(&shared).await?;
        }
        stop.cancel();
        Ok(())
    };
    tokio::try_join!(followed, sessions, watched)?;
    Ok(())
}

/// Prefix of the metrics of the watch on readings.
const GROUP_METRICS: &str = "alerting";

/// Lists the names of the service's metrics, which dashboards and documents are held against.
pub fn metric_names() -> Vec<String> {
    let prefixes = TABLES.iter().map(|table| table.metrics).chain([GROUP_METRICS]);
    let watches: Vec<_> = prefixes.map(WatchMetrics::names).collect();
    [Metrics::names(), watches.concat()].concat()
}

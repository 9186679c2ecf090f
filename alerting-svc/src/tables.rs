//! The tables of thresholds, devices and silences, each held whole, and how operators see them.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::silences::Silences;
use anyhow::Context;
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::kafka::{Assignment, Watch, WatchMetrics, Watched, table};
use rules::{Devices, Rules, Touched};
use schema::Timestamp;
use schema::topics::{self, Topic};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Most changes that wait for the session; beyond it, episodes are checked one and all.
const CHANGES_MAX: usize = 10_000;

/// A table: its topic, its reader, which is in no group, its latches, and the prefix of its metrics.
pub(crate) struct Table {
    topic: &'static Topic,
    reader: &'static str,
    latch: &'static str,
    progress_latch: &'static str,
    pub(crate) metrics: &'static str,
}

/// The tables that are held.
pub(crate) const TABLES: [Table; 3] = [
    Table {
        topic: &topics::THRESHOLD_UPDATES,
        reader: "alerting-svc-thresholds",
        latch: "thresholds",
        progress_latch: "thresholds-progress",
        metrics: "alerting_thresholds",
    },
    Table {
        topic: &topics::DEVICE_UPDATES,
        reader: "alerting-svc-devices",
        latch: "devices",
        progress_latch: "devices-progress",
        metrics: "alerting_devices",
    },
    Table {
        topic: &topics::SILENCE_UPDATES,
        reader: "alerting-svc-silences",
        latch: "silences",
        progress_latch: "silences-progress",
        metrics: "alerting_silences",
    },
];

/// Holds the tables as they are now.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) rules: Rules,
    pub(crate) devices: Devices,
    pub(crate) silences: Silences,
}

/// A change that may close episodes.
#[derive(Debug)]
pub(crate) enum Changed {
    Rule(Touched),
    Device(String),
}

/// What has changed since the session looked last.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    list: Vec<Changed>,
    is_overrun: bool,
}

/// Keeps the tables. Cheap to clone; every clone is the same tables.
#[derive(Clone)]
pub(crate) struct Tables {
    held: Arc<RwLock<Held>>,
    changes: Arc<Mutex<Changes>>,
    metrics: Metrics,
    /// Closed while the last change of any threshold cannot be read.
    readable: Latch,
}

impl Tables {
    /// Begins with empty tables.
    pub(crate) fn new(metrics: Metrics, readable: Latch) -> Self {
        readable.open();
        Self { held: Arc::default(), changes: Arc::default(), metrics, readable }
    }

    /// Returns the tables of this moment; nothing is applied until the answer is dropped.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has changed since the last call; none when that was too much to be listed.
    pub(crate) fn take_changes(&self) -> Option<Vec<Changed>> {
        let changes = std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        (!changes.is_overrun).then_some(changes.list)
    }

    fn changed(&self, changed: Option<Changed>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Some(changed) if changes.list.len() < CHANGES_MAX => changes.list.push(changed),
            Some(_) => changes.is_overrun = true,
            None => {}
        }
    }

    /// Applies one record of a table's topic; no value is a tombstone.
    fn apply(&self, topic: &Topic, key: &[u8], value: Option<&[u8]>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let applied = if *topic == topics::THRESHOLD_UPDATES {
            held.rules.apply(key, value).map(|touched| self.changed(touched.map(Changed::Rule)))
        } else if *topic == topics::DEVICE_UPDATES {
            held.devices.apply(key, value).map(|sensor| self.changed(sensor.map(Changed::Device)))
        } else {
            held.silences.apply(key, value, Timestamp::now())
        };
        if applied.is_err() {
            self.metrics.unreadable_rules.inc();
            tracing::error!(topic = topic.name, "a change cannot be read; the one before stays in force");
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.thresholds.set(count(held.rules.count()));
        self.metrics.devices.set(count(held.devices.count()));
        self.metrics.silences.set(count(held.silences.count()));
        self.metrics.unreadable_thresholds.set(count(held.rules.unreadable_count()));
        // A rollout of a build that cannot read the table stops at its first instance.
        if held.rules.unreadable_count() == 0 { self.readable.open() } else { self.readable.close() }
    }

    /// Feeds one table until the shutdown, and says when it is loaded.
    ///
    /// # Errors
    /// A client cannot be made (stop).
    pub(crate) async fn follow(
        &self,
        table: &Table,
        config: &Config,
        chassis: &Chassis,
        stop: &CancellationToken,
        loaded: oneshot::Sender<()>,
    ) -> anyhow::Result<()> {
        let (topic, assignment) = (config.kafka.topic(table.topic.name), Assignment::default());
        let metrics = WatchMetrics::register(&chassis.registry, table.metrics).context("register metrics")?;
        let watched = Watched {
            latch: table.progress_latch,
            group: table.reader,
            topic: &topic,
            assignment: &assignment,
            stall_max: config.stall_max,
            metrics,
        };
        let watch = Watch::open(&config.kafka, chassis, watched)?;
        let latch = chassis.readiness.latch(table.latch);
        let source =
            table::Source { reader: table.reader, topic: &topic, latch: &latch, assignment: &assignment };
        // Err means that the sessions have ended already.
        let on_loaded = || loaded.send(()).unwrap_or_default();
        let apply = |key: &[u8], value: Option<&[u8]>| self.apply(table.topic, key, value);
        let followed = table::follow(&config.kafka, source, stop, apply, on_loaded);
        let watched = async {
            tokio::select! {
                ended = watch.run(|_| true) => ended,
                () = stop.cancelled() => Ok(()),
            }
        };
        tokio::try_join!(followed, watched)?;
        Ok(())
    }
}

//! Kafka `iot-alerts` → webhooks.
//!
//! In:         topic `iot-alerts` (`read_committed`), a group `notify-svc-<target>` for each target.
//! Out:        HTTP calls; topic `iot-notify-dlq`.
//! Guarantee:  at least once: an offset is committed when the target or the dead letter topic has the alert;
//!             a repetition has the same `Idempotency-Key`. Alerts of one episode come in their order.
//! On failure: a target away, slow or overloaded → its alerts wait in Kafka, those of the others do not;
//!             given up by age → dead letter. Refused, or failed over at every try → dead letter. Kafka away
//!             → waits.

mod call;
mod config;
mod dead_letter;
mod delivery;
mod gate;
mod metrics;
pub mod payload;
pub mod target;

pub use call::sign;
pub use config::Config;
pub use metrics::Metrics;

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Assignment, Batches, Monitor, Watch, WatchMetrics, Watched};
use dead_letter::DeadLetters;
use delivery::{BATCH_RECORDS_MAX, Delivery};
use schema::topics;
use std::sync::atomic::Ordering;
use std::time::Duration;
use target::Target;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Most kibibytes that are fetched ahead for each target; an alert has about one.
const QUEUE_KIB_MAX: &str = "4096";
/// How often the process says that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// Runs until shutdown.
///
/// # Errors
/// A client cannot be made, or a task fails (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let dead_letters = DeadLetters::open(&config.kafka, chassis.readiness.latch("dead-letters"))?;
    let mut tasks = JoinSet::new();
    for target in &config.targets {
        start(&config, &chassis, target, &dead_letters, &metrics, &mut tasks)
            .with_context(|| format!("start target {}", target.name))?;
    }
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        chassis.liveness.beat();
        tokio::select! {
            () = chassis.shutdown.cancelled() => return Ok(()),
            Some(ended) = tasks.join_next() => ended.context("tell a target")??,
            _ = beats.tick() => {}
        }
    }
}

/// Lists the names of the service's metrics, which dashboards and documents are held against; those of the
/// watches are named after their targets.
pub fn metric_names() -> Vec<String> {
    Metrics::names()
}

/// Starts the consumer of a target and the watch on it.
fn start(
    config: &Config,
    chassis: &Chassis,
    target: &Target,
    dead_letters: &DeadLetters,
    metrics: &Metrics,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (topic, assignment) = (config.kafka.topic(topics::ALERTS.name), Assignment::default());
    let group = format!("notify-svc-{}", target.name);
    // Latches are named for the life of the process; there are as few as targets.
    let (latch, progress) =
        (name(format!("kafka-{}", target.name)), name(format!("progress-{}", target.name)));
    let mut settings = config.kafka.consumer(&group);
    settings.set("queued.max.messages.kbytes", QUEUE_KIB_MAX);
    let monitor = Monitor::new(chassis.readiness.latch(latch));
    let batches = Batches::join(settings, &topic, &assignment, monitor, BATCH_RECORDS_MAX)?;
    let watched = Watched {
        latch: progress,
        group: &group,
        topic: &topic,
        assignment: &assignment,
        stall_max: config.stall_max,
        metrics: WatchMetrics::register(&chassis.registry, &format!("notify_{}", target.name))
            .context("register metrics")?,
    };
    let watch = Watch::open(&config.kafka, chassis, watched)?;
    let delivery = Delivery::new(target.clone(), assignment, dead_letters.clone(), metrics.clone())?;
    let is_telling = delivery.is_telling();
    tasks.spawn(batches.keep_commits());
    tasks.spawn(watch.run(move |_| !is_telling.load(Ordering::Relaxed)));
    tasks.spawn(delivery.run(batches, chassis.shutdown.clone()));
    Ok(())
}

fn name(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

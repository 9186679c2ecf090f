//! Lag from the broker's own offsets, and a watchdog on progress, for every consumer.
//!
//! The broker is asked for the end of each assigned partition, paused ones included, and the group for its
//! committed offsets: one request for each leader and one for the coordinator, every few seconds, by a client
//! of its own, so that nothing in the consumer itself can hide a lag. (Lag from librdkafka's statistics is
//! that of the last fetch: a partition that is not fetched any more keeps a lag of 0.) A partition with lag
//! that stands still for `STALL_MS_MAX` with nothing in its way is logged once, counted, and closes a latch;
//! after twice the time the process is not live.
//!
//! ```no_run
//! # use chassis::{Chassis, config::Env};
//! # use chassis::kafka::{Assignment, Settings, Watch, WatchMetrics, Watched, stall_max};
//! # async fn example(env: &mut Env, settings: &Settings, chassis: &Chassis) -> anyhow::Result<()> {
//! let stall_max = stall_max(env);
//! let assignment = Assignment::default(); // the context's rebalance callbacks call `assign` and `revoke`
//! let watched = Watched {
//!     latch: "progress", // another name for each watch of a process
//!     group: "command-svc",
//!     topic: &settings.topic("iot-reading-topic"),
//!     assignment: &assignment,
//!     stall_max,
//!     metrics: WatchMetrics::register(&chassis.registry, "command")?,
//! };
//! let watch = Watch::open(settings, chassis, watched)?;
//! let is_free = |_partition| true; // room in its queue, and the database answers
//! tokio::select! {
//!     never = watch.run(is_free) => never,
//!     () = chassis.shutdown.cancelled() => Ok(()),
//! }
//! # }
//! ```
//!
//! A reader without a group tells how far it is by [`Assignment::reach`] and [`Assignment::end`]; the group
//! is then only a name.

use super::assignment::{Assignment, Ended, Held};
use super::progress::{Look, Progress, Verdict};
use super::{Quiet, Settings};
use crate::Chassis;
use crate::admin::{Latch, Liveness};
use crate::config::Env;
use anyhow::Context;
use prometheus::{IntCounter, IntGauge};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How old the lag may be.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Timeout after which a broker counts as unreachable; the next look asks again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Events of the asking client that one look takes away; nobody else reads them.
const EVENTS_MAX: usize = 1_000;

/// Reads `STALL_MS_MAX`.
pub fn stall_max(env: &mut Env) -> Duration {
    env.about(
        "How long a partition may have lag and stand still, with nothing in its way, until the process is \
         not ready, and not live after twice the time.",
    );
    env.duration_ms("STALL_MS_MAX", 120_000, 1_000..=3_600_000)
}

crate::metrics! {
    /// Holds the metrics of one watch.
    #[derive(Clone, Debug)]
    pub struct WatchMetrics(prefix) {
        /// Records of the assigned partitions, paused ones too, from the committed offset to the end.
        lag_records: IntGauge = "lag_records",
        /// Partitions that this instance reads.
        partitions_assigned: IntGauge = "partitions_assigned",
        /// Assigned partitions that are paused.
        partitions_paused: IntGauge = "partitions_paused",
        /// Assigned partitions with lag that stand still with nothing in their way.
        partitions_stalled: IntGauge = "partitions_stalled",
        /// Stalls of a partition that began.
        stalls: IntCounter = "stalls_total",
        /// Looks at the lag that Kafka did not answer.
        look_failures: IntCounter = "lag_failures_total",
    }
}

/// Says what a watch looks at.
pub struct Watched<'a> {
    /// Names the latch that a stall closes, and what is not live when the stall is hopeless.
    pub latch: &'static str,
    /// The group that commits, without its prefix; for a reader without committed offsets only a name.
    pub group: &'a str,
    /// The topic with its prefix.
    pub topic: &'a str,
    /// The partitions of the consumer that is watched.
    pub assignment: &'a Assignment,
    /// The longest stand that is no stall.
    pub stall_max: Duration,
    /// Where it is shown.
    pub metrics: WatchMetrics,
}

/// Looks at one topic's lag and progress.
pub struct Watch {
    client: Arc<BaseConsumer<Quiet>>,
    topic: Arc<str>,
    assignment: Assignment,
    progress: Progress,
    ends: Ends,
    metrics: WatchMetrics,
    name: &'static str,
    latch: Latch,
    liveness: Liveness,
    is_answered: bool,
}

impl Watch {
    /// Makes the asking client, which does not join the group, and opens the latch.
    ///
    /// # Errors
    /// The client cannot be made (stop).
    pub fn open(settings: &Settings, chassis: &Chassis, watched: Watched<'_>) -> anyhow::Result<Self> {
        let client = settings.consumer(watched.group).create_with_context(Quiet);
        let latch = chassis.readiness.latch(watched.latch);
        latch.open();
        Ok(Self {
            client: Arc::new(client.context("create the lag client")?),
            topic: watched.topic.into(),
            assignment: watched.assignment.clone(),
            progress: Progress::new(watched.stall_max),
            ends: Ends::default(),
            metrics: watched.metrics,
            name: watched.latch,
            latch,
            liveness: chassis.liveness.clone(),
            is_answered: true,
        })
    }

    /// Looks until it is dropped. `is_free` says whether nothing stands in a partition's way.
    ///
    /// # Errors
    /// Never by itself; a look that panics is one (stop).
    pub async fn run(mut self, is_free: impl Fn(i32) -> bool) -> anyhow::Result<()> {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let held = self.assignment.held();
            self.metrics.partitions_assigned.set(i64::try_from(held.len()).unwrap_or(i64::MAX));
            let paused = held.values().filter(|held| held.is_paused).count();
            self.metrics.partitions_paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
            let (client, topic) = (Arc::clone(&self.client), Arc::clone(&self.topic));
            // The calls block their thread, so they get one of their own.
            let asked =
                tokio::task::spawn_blocking(move || ask(&client, &topic, &held).map(|found| (held, found)));
            match asked.await.context("look at the lag")? {
                Ok((held, found)) => {
                    self.is_answered = true;
                    let looks = found.into_iter().map(|(partition, (reached, end))| {
                        let reached = self.ends.pass(partition, held[&partition].ended, reached, end);
                        (partition, Look { end, reached, is_free: is_free(partition) })
                    });
                    let verdict = self.progress.look(Instant::now(), &looks.collect());
                    self.show(&verdict);
                }
                Err(error) => {
                    self.metrics.look_failures.inc();
                    if std::mem::replace(&mut self.is_answered, false) {
                        tracing::warn!(topic = &*self.topic, %error, "lag is not known now");
                    }
                }
            }
        }
    }

    fn show(&self, verdict: &Verdict) {
        self.metrics.lag_records.set(verdict.lag_records);
        self.metrics.partitions_stalled.set(i64::try_from(verdict.stalled_count).unwrap_or(i64::MAX));
        self.metrics.stalls.inc_by(verdict.stalled.len() as u64);
        if !verdict.stalled.is_empty() {
            tracing::error!(
                topic = &*self.topic,
                partitions = ?verdict.stalled,
                "partitions have lag and stand still with nothing in their way"
            );
        }
        if !verdict.recovered.is_empty() {
            tracing::info!(topic = &*self.topic, partitions = ?verdict.recovered, "partitions stand still no more");
        }
        if verdict.stalled_count == 0 {
            self.latch.open();
        } else {
            self.latch.close();
        }
        self.liveness.set_stuck(self.name, verdict.is_hopeless);
    }
}

/// Remembers what the end was when a reader had arrived there: between its last record and that end are
/// markers alone.
#[derive(Debug, Default)]
struct Ends(BTreeMap<i32, (Ended, i64)>);

impl Ends {
    /// Returns what is reached once the markers are passed over. What came between the arrival and this look
    /// passes as markers, too, until the next arrival or the next record after it.
    fn pass(&mut self, partition: i32, ended: Option<Ended>, reached: i64, end: i64) -> i64 {
        let Some(ended) = ended else {
            self.0.remove(&partition);
            return reached;
        };
        let found = self.0.entry(partition).or_insert((ended, end));
        if found.0 != ended {
            *found = (ended, end);
        }
        if reached >= ended.next { reached.max(found.1) } else { reached }
    }
}

/// Returns, for each partition, the offset that is reached and the end.
fn ask(
    client: &BaseConsumer<Quiet>,
    topic: &str,
    held: &BTreeMap<i32, Held>,
) -> KafkaResult<BTreeMap<i32, (i64, i64)>> {
    for _ in 0..EVENTS_MAX {
        if client.poll(Duration::ZERO).is_none() {
            break;
        }
    }
    if held.is_empty() {
        return Ok(BTreeMap::new());
    }
    // First what is reached, so that a record that comes in between is lag and not the opposite.
    let mut reached: BTreeMap<i32, i64> =
        held.iter().filter_map(|(partition, held)| Some((*partition, held.reached?))).collect();
    let unknown = |reached: &BTreeMap<i32, i64>| -> Vec<i32> {
        held.keys().filter(|partition| !reached.contains_key(partition)).copied().collect()
    };
    let of_the_group = unknown(&reached);
    if !of_the_group.is_empty() {
        let list = list_of(topic, &of_the_group, Offset::Invalid)?;
        reached.extend(absolute(&client.committed_offsets(list, ANSWER_MAX)?));
    }
    // A group that has committed nothing yet begins at the beginning.
    let of_nobody = unknown(&reached);
    if !of_nobody.is_empty() {
        let list = list_of(topic, &of_nobody, Offset::Beginning)?;
        reached.extend(absolute(&client.offsets_for_times(list, ANSWER_MAX)?));
    }
    // A "time" of -1 asks for the end: with read_committed that is the last stable offset.
    let all: Vec<i32> = held.keys().copied().collect();
    let ends = absolute(&client.offsets_for_times(list_of(topic, &all, Offset::End)?, ANSWER_MAX)?);
    Ok(ends
        .into_iter()
        .filter_map(|(partition, end)| Some((partition, (*reached.get(&partition)?, end))))
        .collect())
}

fn list_of(topic: &str, partitions: &[i32], offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    Ok(list)
}

fn absolute(list: &TopicPartitionList) -> BTreeMap<i32, i64> {
    let elements = list.elements();
    let known = elements.iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_at_the_end_are_no_lag_and_what_comes_after_them_is() {
        let mut ends = Ends::default();
        let arrival = |number, next| Some(Ended { number, next });
        assert_eq!(ends.pass(0, None, 7, 9), 7);
        assert_eq!(ends.pass(0, arrival(1, 8), 7, 9), 7, "a record before the end is not done");
        assert_eq!(ends.pass(0, arrival(1, 8), 8, 9), 9);
        assert_eq!(ends.pass(0, arrival(1, 8), 8, 12), 9, "what came later is lag");
        assert_eq!(ends.pass(0, arrival(2, 11), 11, 12), 12);
        assert_eq!(ends.pass(1, arrival(3, 0), 0, 1), 1);
    }
}

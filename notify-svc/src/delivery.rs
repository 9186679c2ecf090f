//! One target and its consumer group: alerts in batches, those of one episode one after the other.
//!
//! A group for each target, so that none waits for another: one that is away has its alerts waiting in Kafka.

use crate::call::{Outcome, call, client};
use crate::dead_letter::{DeadLetters, Reason};
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::payload::episode_of;
use crate::target::Target;
use chassis::kafka::{Assignment, Batches, Taken, done_of};
use chassis::retry::Backoff;
use futures::stream::{StreamExt as _, iter};
use parking_lot::Mutex;
use rand::Rng as _;
use rdkafka::consumer::CommitMode;
use rdkafka::message::Message as _;
use reqwest_rustls::Client;
use schema::{Alert, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Most alerts of a batch; the offsets of all wait for the slowest.
pub(crate) const BATCH_RECORDS_MAX: usize = 64;
/// Episodes of a batch that are told at the same time.
const CALLS_MAX: usize = 8;
/// Tries of an alert over which the target fails, before it is a dead letter.
const TRIES_MAX: u32 = 6;
/// Waits between them: the first, and the longest. It is the circuit that spares a target for longer.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Tells one target.
pub(crate) struct Delivery {
    pub(crate) target: Target,
    pub(crate) assignment: Assignment,
    dead_letters: DeadLetters,
    metrics: Metrics,
    client: Client,
    gate: Mutex<Gate>,
    is_telling: Arc<AtomicBool>,
}

/// An alert with its record.
struct Due {
    alert: Alert,
    taken: Taken,
}

impl Delivery {
    /// Makes the client of the target.
    ///
    /// # Errors
    /// The client cannot be made (stop).
    pub(crate) fn new(
        target: Target,
        assignment: Assignment,
        dead_letters: DeadLetters,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let gate = Mutex::new(Gate::new(target.per_minute_max, Instant::now()));
        let (client, is_telling) = (client(&target)?, Arc::default());
        Ok(Self { target, assignment, dead_letters, metrics, client, gate, is_telling })
    }

    /// Returns what says whether a batch is being told: its offsets stand still for a reason.
    pub(crate) fn is_telling(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_telling)
    }

    /// Tells until shutdown. The next start may tell again an alert that is under way then.
    pub(crate) async fn run(self, mut batches: Batches, shutdown: CancellationToken) -> anyhow::Result<()> {
        let telling = async {
            loop {
                let batch = batches.gather().await;
                let done = done_of(&batch);
                self.is_telling.store(true, Ordering::Relaxed);
                batches.during(self.tell_all(batch)).await;
                self.is_telling.store(false, Ordering::Relaxed);
                batches.commit(&done, CommitMode::Async);
            }
        };
        shutdown.run_until_cancelled(telling).await.unwrap_or(Ok(()))
    }

    /// Returns when every alert is taken, a dead letter, or not for this target; or its partition has gone.
    async fn tell_all(&self, batch: Vec<Taken>) {
        let mut episodes: BTreeMap<String, Vec<Due>> = BTreeMap::new();
        for taken in batch {
            match serde_json::from_slice::<Alert>(taken.record.payload().unwrap_or_default()) {
                Ok(alert) if self.target.matcher.hears(&alert) => {
                    episodes.entry(episode_of(&alert)).or_default().push(Due { alert, taken });
                }
                Ok(_) => self.metrics.passed_over.with_label_values(&[&self.target.name]).inc(),
                Err(_) => self.metrics.undecodable.inc(),
            }
        }
        let tell = async |episode: Vec<Due>| {
            for due in &episode {
                self.tell(due).await;
            }
        };
        iter(episodes.into_values()).for_each_concurrent(CALLS_MAX, tell).await;
    }

    async fn tell(&self, due: &Due) {
        let name = [self.target.name.as_str()];
        let (mut tries, mut last) = (0, String::new());
        let mut waits = Backoff::new(WAITS.0, WAITS.1);
        loop {
            if !self.is_ours(&due.taken) {
                return; // the next owner tells it
            }
            if age(&due.alert) > self.target.age_max {
                let detail = format!("older than {} s; {last}", self.target.age_max.as_secs());
                return self.give_up(due, Reason::TooOld, &detail).await;
            }
            if let Err(wait) = self.ask() {
                // Short enough that a partition that goes is noticed.
                sleep(wait.min(Duration::from_secs(1))).await;
                continue;
            }
            let record = due.taken.record.payload().unwrap_or_default();
            match self.note(call(&self.client, &self.target, &due.alert, record).await) {
                Outcome::Taken => {
                    self.metrics.delivered.with_label_values(&name).inc();
                    self.metrics.seconds.with_label_values(&name).observe(age(&due.alert).as_secs_f64());
                    return;
                }
                Outcome::Refused(status) => {
                    return self.give_up(due, Reason::Refused, &format!("answered {status}")).await;
                }
                Outcome::Failed(status) => {
                    tries += 1;
                    last = format!("answered {status}");
                    if tries >= TRIES_MAX {
                        return self.give_up(due, Reason::Failed, &last).await;
                    }
                }
                Outcome::Away(detail, _) => last = detail,
            }
            self.metrics.retries.with_label_values(&name).inc();
            tracing::debug!(target_name = self.target.name, last, "target does not take an alert now");
            sleep(waits.next_wait()).await;
        }
    }

    /// Says whether a call may be made now; else how long to wait.
    fn ask(&self) -> Result<(), Duration> {
        self.gate.lock().ask(Instant::now(), self.target.call_max)
    }

    /// Tells the gate how a call ended, and shows the circuit.
    fn note(&self, outcome: Outcome) -> Outcome {
        let (mut gate, now, chance) = (self.gate.lock(), Instant::now(), rand::rng().random());
        let was_open = gate.is_open();
        match &outcome {
            Outcome::Taken | Outcome::Refused(_) => gate.succeeded(),
            Outcome::Failed(_) => gate.failed(now, chance, None),
            Outcome::Away(_, asked) => gate.failed(now, chance, *asked),
        }
        let is_open = gate.is_open();
        drop(gate);
        self.metrics.circuit_open.with_label_values(&[&self.target.name]).set(is_open.into());
        match (was_open, is_open) {
            (false, true) => {
                tracing::warn!(target_name = self.target.name, ?outcome, "target is away; its alerts wait");
            }
            (true, false) => tracing::info!(target_name = self.target.name, "target is back"),
            _ => {}
        }
        outcome
    }

    fn is_ours(&self, taken: &Taken) -> bool {
        self.assignment.holds_since(taken.record.partition(), taken.version)
    }

    async fn give_up(&self, due: &Due, reason: Reason, detail: &str) {
        self.dead_letters.send(&due.taken.record, &self.target, reason, detail).await;
        self.metrics.dead_letters.with_label_values(&[&self.target.name, reason.as_str()]).inc();
    }
}

fn age(alert: &Alert) -> Duration {
    let micros = Timestamp::now().as_micros().saturating_sub(alert.detected_at.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

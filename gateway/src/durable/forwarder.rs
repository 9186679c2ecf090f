//! Spool → Kafka, in order. One task, from the start of the gateway: a former run may have left records.
//!
//! What Kafka refuses for itself, another try would not change: it is sent again with fewer others, because a
//! refusal is about what the producer has put into one request, and when it is refused alone it goes where
//! [`crate::durable::refused`] says.

use crate::durable::failover::Failover;
use crate::durable::producer::Producer;
use crate::durable::refused;
use crate::durable::report::Produced;
use crate::durable::spool::{self, Health, Record, Seq, Spool};
use crate::metrics::Metrics;
use crate::watchdog::Standing;
use chassis::admin::Latch;
use chassis::retry::Backoff;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Records that are forwarded together: a few milliseconds' worth, and few enough to repeat after a crash.
const BATCH_RECORDS_MAX: usize = 1000;
/// How often the patience is looked at: late by this much at most.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long purged copies may take to be reported before they are purged again.
const PURGE_WAIT: Duration = Duration::from_secs(1);
/// Wait with nothing to forward before Kafka is tried with new records: the spool had failed, or all was
/// reported in time.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Failed batches are tried again after 0.1 s, and up to 5 s later each time.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Forwards the spool and watches over it.
pub(crate) struct Forwarder {
    producer: Producer,
    failover: Arc<Failover>,
    /// Open while the spool takes records.
    latch: Latch,
    rounds: AtomicU64,
    /// The record that is forwarded next.
    next: AtomicU64,
    /// Set while reports are awaited: a Kafka that is away sends none.
    awaits_reports: AtomicBool,
}

impl Forwarder {
    /// Forwards nothing yet.
    pub(crate) fn new(producer: Producer, failover: Arc<Failover>, latch: Latch) -> Self {
        Self {
            producer,
            failover,
            latch,
            rounds: AtomicU64::new(0),
            next: AtomicU64::new(1),
            awaits_reports: AtomicBool::new(false),
        }
    }

    /// Does so; never ends.
    pub(crate) async fn run(&self) {
        let failover = &*self.failover;
        let check = async {
            let mut ticks = interval(CHECK_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                failover.check_deadline();
            }
        };
        tokio::select! {
            () = check => {}
            () = show(failover.spool().statuses(), &self.latch, self.producer.metrics()) => {}
            () = self.forward() => {}
        }
    }

    async fn forward(&self) {
        let failover = &*self.failover;
        let (mut from, mut purged_switches, mut backoff) = (1, 0, BACKOFF);
        let mut records_max = BATCH_RECORDS_MAX;
        loop {
            self.next.store(from, Ordering::Relaxed);
            tokio::select! {
                () = failover.spool().wait_for(from) => {}
                () = failover.switched() => {}
                () = sleep(IDLE_WAIT), if failover.is_spooling() => {}
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
            let switches = failover.switches();
            if switches != purged_switches {
                self.purge().await;
                purged_switches = switches;
            }
            let batch = match failover.read(switches, from, records_max).await {
                Ok(Some(batch)) => batch,
                Ok(None) => continue,
                Err(_) => {
                    // Said once, with the readiness; nothing can be read before the disk is back. Sensors
                    // that have nothing on it need not wait for that while Kafka is well.
                    if self.producer.is_kafka_up() {
                        failover.resume(switches);
                    }
                    sleep(backoff.next_wait()).await;
                    continue;
                }
            };
            let Some((last, _)) = batch.last() else {
                failover.resume(switches);
                continue;
            };
            if *last >= failover.spool().status().durable_through {
                failover.begin_return();
            }
            let (last, sent) = (*last, batch.len());
            let Produced { mut stored, refusal } = self.produce_all(&batch).await;
            self.producer.metrics().spool.forwarded.inc_by(stored as u64);
            match (&refusal, batch.get(stored)) {
                (Some(_), _) if sent > 1 => records_max = (sent / 2).max(1),
                (Some(error), Some((_, record)))
                    if refused::set_aside(&self.producer, failover.spool().dir(), record, error).await =>
                {
                    stored = 1;
                }
                _ => records_max = (2 * records_max).min(BATCH_RECORDS_MAX),
            }
            if let Some((through, _)) = stored.checked_sub(1).and_then(|index| batch.get(index)) {
                failover.spool().remove_through(*through);
                from = through + 1;
            }
            if from > last {
                backoff.reset();
                failover.resume(switches);
            } else if refusal.is_none() || sent == 1 {
                if backoff.failures() == 0 {
                    tracing::warn!(
                        records = sent - stored,
                        "Kafka does not take spooled records; trying again"
                    );
                }
                sleep(backoff.next_wait()).await;
            }
        }
    }

    /// Returns the spool that it forwards.
    pub(crate) fn spool(&self) -> &Spool {
        self.failover.spool()
    }

    /// Says how it stands. Reports that are awaited come when Kafka is there, unless the producer owes none.
    pub(crate) fn standing(&self) -> Standing {
        let awaits_reports = self.awaits_reports.load(Ordering::Relaxed);
        Standing {
            steps: self.rounds.load(Ordering::Relaxed),
            has_work: self.failover.spool().status().durable_through >= self.next.load(Ordering::Relaxed),
            waits_outside: awaits_reports && self.producer.owes_reports(),
        }
    }

    /// Has the producer forget the copies of what is in the spool now, so that none overtakes.
    async fn purge(&self) {
        loop {
            let producer = self.producer.clone();
            // A purge that panics has purged nothing: the next one comes.
            let _ = tokio::task::spawn_blocking(move || producer.purge()).await;
            if self.awaiting_reports(timeout(PURGE_WAIT, self.failover.all_reported())).await.is_ok() {
                return;
            }
        }
    }

    async fn produce_all(&self, batch: &[(Seq, Record)]) -> Produced {
        self.awaiting_reports(self.producer.produce_all(batch)).await
    }

    async fn awaiting_reports<F: Future>(&self, reports: F) -> F::Output {
        self.awaits_reports.store(true, Ordering::Relaxed);
        let outcome = reports.await;
        self.awaits_reports.store(false, Ordering::Relaxed);
        outcome
    }
}

/// Shows how the spool is, in the metrics and the readiness.
async fn show(mut statuses: watch::Receiver<spool::Status>, latch: &Latch, metrics: &Metrics) {
    let mut before = None;
    loop {
        let status = *statuses.borrow_and_update();
        metrics.spool.records.set(i64::try_from(status.records).unwrap_or(i64::MAX));
        metrics.spool.bytes.set(i64::try_from(status.bytes).unwrap_or(i64::MAX));
        if before != Some(status.health) {
            match status.health {
                Health::Ready => latch.open(),
                Health::Full => {
                    tracing::error!(bytes = status.bytes, "the spool is full: nothing more is read");
                    latch.close();
                }
                Health::Failing => {
                    tracing::error!("the spool's disk fails: what Kafka does not take is not acknowledged");
                    latch.close();
                }
            }
        }
        before = Some(status.health);
        if statuses.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

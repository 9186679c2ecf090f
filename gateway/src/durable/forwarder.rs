//! Spool → Kafka, in order. One task, from the start of the gateway: a former run may have left records.
//!
//! What Kafka refuses for itself, another try would not change: it is sent again with fewer others, because a refusal is about
//! what the producer has put into one request, and when it is refused alone it goes where [`crate::durable::refused`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use chassis::admin::Latch;
use chassis::retry::Backoff;
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, PurgeConfig};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::durable::failover::Failover;
use crate::durable::producer::{DeliveryOf, Producer, is_refusal};
use crate::durable::spool::{self, Health, Record, Seq};
use crate::metrics::Metrics;
use crate::watchdog::Standing;

/// Records that are forwarded together: a few milliseconds' worth, and few enough to repeat after a crash.
const BATCH_RECORDS_MAX: usize = 1000;
/// How often the patience is looked at: late by this much at most.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The wait before a full producer queue is tried again.
const QUEUE_WAIT: Duration = Duration::from_millis(5);
/// How long purged copies may take to be reported before they are purged again.
const PURGE_WAIT: Duration = Duration::from_secs(1);
/// With nothing to forward, Kafka is tried with new records after so long: the spool had failed, or all was reported in time.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// Failed batches are tried again after 0.1 s, and up to 5 s later each time.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// How far the forwarder is, for whoever watches over it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rounds: AtomicU64,
    /// The record that is forwarded next.
    next: AtomicU64,
    /// Set while reports are awaited: a Kafka that is away sends none.
    awaits_reports: AtomicBool,
}

/// What became of a batch that is being produced.
pub(crate) struct Batch {
    unreported: AtomicUsize,
    failure: Mutex<Option<Failure>>,
    all_reported: Notify,
}

/// The first record of a batch that Kafka does not have.
struct Failure {
    index: usize,
    /// Why, if another try would end the same.
    refusal: Option<KafkaError>,
}

/// How a batch ended.
pub(crate) struct Produced {
    /// So many records, from the first on, are in Kafka.
    pub(crate) stored: usize,
    /// Why Kafka never takes the next one, as it was sent.
    pub(crate) refusal: Option<KafkaError>,
}

impl Batch {
    fn new(records: usize) -> Arc<Self> {
        Arc::new(Self {
            unreported: AtomicUsize::new(records),
            failure: Mutex::default(),
            all_reported: Notify::new(),
        })
    }

    /// Takes a report down; each record has one.
    pub(crate) fn report(&self, index: usize, error: Option<&KafkaError>) {
        if let Some(error) = error {
            let mut failure = self.failure.lock();
            if failure.as_ref().is_none_or(|first| first.index > index) {
                *failure = Some(Failure { index, refusal: is_refusal(error).then(|| error.clone()) });
            }
        }
        if self.unreported.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_reported.notify_one();
        }
    }
}

impl Producer {
    /// Forwards the spool and watches over it; never ends, and does nothing when there is none.
    pub(crate) async fn run_spool(&self, latch: Option<Latch>) {
        let (Some(failover), Some(latch)) = (self.failover(), latch) else {
            return std::future::pending().await;
        };
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
            () = show(failover.spool().statuses(), &latch, self.metrics()) => {}
            () = self.forward(failover) => {}
        }
    }

    async fn forward(&self, failover: &Failover) {
        let (mut from, mut purged_switches, mut backoff) = (1, 0, BACKOFF);
        let mut records_max = BATCH_RECORDS_MAX;
        loop {
            self.pace().next.store(from, Ordering::Relaxed);
            tokio::select! {
                () = failover.spool().wait_for(from) => {}
                () = failover.switched() => {}
                () = sleep(IDLE_WAIT), if failover.is_spooling() => {}
            }
            self.pace().rounds.fetch_add(1, Ordering::Relaxed);
            let switches = failover.switches();
            if switches != purged_switches {
                self.purge(failover).await;
                purged_switches = switches;
            }
            let batch = match failover.read(switches, from, records_max).await {
                Ok(Some(batch)) => batch,
                Ok(None) => continue,
                Err(_) => {
                    // Said once, with the readiness; nothing can be read before the disk is back. Sensors that have nothing
                    // on it need not wait for that while Kafka is well.
                    if self.is_kafka_up() {
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
            self.metrics().spool.forwarded.inc_by(stored as u64);
            match (&refusal, batch.get(stored)) {
                (Some(_), _) if sent > 1 => records_max = (sent / 2).max(1),
                (Some(error), Some((_, record))) if self.set_aside(failover, record, error).await => {
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

    /// Says how the forwarder stands. Reports that are awaited come when Kafka is there, unless the producer owes none.
    pub(crate) fn forwarder_standing(&self, failover: &Failover) -> Standing {
        let awaits_reports = self.pace().awaits_reports.load(Ordering::Relaxed);
        Standing {
            steps: self.pace().rounds.load(Ordering::Relaxed),
            has_work: failover.spool().status().durable_through >= self.pace().next.load(Ordering::Relaxed),
            waits_outside: awaits_reports && self.client().in_flight_count() > 0,
        }
    }

    /// Has the producer forget the copies of what is in the spool now, so that none overtakes.
    async fn purge(&self, failover: &Failover) {
        loop {
            let producer = self.client().clone();
            let purge = move || producer.purge(PurgeConfig::default().queue().inflight());
            // A purge that panics has purged nothing: the next one comes.
            let _ = tokio::task::spawn_blocking(purge).await;
            self.pace().awaits_reports.store(true, Ordering::Relaxed);
            let all_reported = timeout(PURGE_WAIT, failover.all_reported()).await;
            self.pace().awaits_reports.store(false, Ordering::Relaxed);
            if all_reported.is_ok() {
                return;
            }
        }
    }

    /// Produces records in order and waits for all reports.
    pub(crate) async fn produce_all(&self, records: &[(Seq, Record)]) -> Produced {
        let batch = Batch::new(records.len());
        self.pace().awaits_reports.store(true, Ordering::Relaxed);
        'records: for (index, (_, record)) in records.iter().enumerate() {
            loop {
                match self.send(record, DeliveryOf::Forwarded(batch.clone(), index)) {
                    Ok(()) => break,
                    Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                        sleep(QUEUE_WAIT).await;
                    }
                    Err((error, _)) => {
                        // None behind it may overtake it.
                        (index..records.len()).for_each(|index| batch.report(index, Some(&error)));
                        break 'records;
                    }
                }
            }
        }
        batch.all_reported.notified().await;
        self.pace().awaits_reports.store(false, Ordering::Relaxed);
        match batch.failure.lock().take() {
            Some(Failure { index, refusal }) => Produced { stored: index, refusal },
            None => Produced { stored: records.len(), refusal: None },
        }
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

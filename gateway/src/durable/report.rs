//! Reports of delivery: what each is about, and what it says about Kafka. They come in on the producer's own
//! thread.

use crate::durable::failover::{DirectSeq, Failover};
use crate::durable::in_flight::{AckHandle, Outcome};
use crate::metrics::Metrics;
use chassis::admin::Latch;
use parking_lot::Mutex;
use prometheus::IntGauge;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a delivery report is about.
pub(crate) enum DeliveryOf {
    /// A record that nobody keeps: without a spool.
    Only(AckHandle),
    /// A record whose copy is kept.
    Copy(DirectSeq),
    /// A record of the spool.
    Forwarded(Arc<Batch>, usize),
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
    /// Number of records, from the first on, that are in Kafka.
    pub(crate) stored: usize,
    /// Why Kafka never takes the next one, as it was sent.
    pub(crate) refusal: Option<KafkaError>,
}

impl Batch {
    pub(super) fn new(records: usize) -> Arc<Self> {
        Arc::new(Self {
            unreported: AtomicUsize::new(records),
            failure: Mutex::default(),
            all_reported: Notify::new(),
        })
    }

    /// Waits for all reports and says what they came to.
    pub(super) async fn produced(&self, records: usize) -> Produced {
        self.all_reported.notified().await;
        match self.failure.lock().take() {
            Some(Failure { index, refusal }) => Produced { stored: index, refusal },
            None => Produced { stored: records, refusal: None },
        }
    }

    /// Takes a report down; each record has one.
    pub(super) fn report(&self, index: usize, error: Option<&KafkaError>) {
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

/// What the producer's thread knows about Kafka.
pub(super) struct Health {
    is_up: AtomicBool,
    /// None when a spool stands in for Kafka: then its absence is no reason to be unready.
    latch: Option<Latch>,
    gauge: IntGauge,
    /// Cancelled when the producer cannot be used any more.
    broken: CancellationToken,
}

impl Health {
    pub(super) fn new(latch: Option<Latch>, gauge: IntGauge) -> Self {
        Self { is_up: AtomicBool::new(false), latch, gauge, broken: CancellationToken::new() }
    }

    /// Tells whether Kafka answered when it was last heard of.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Resolves when the producer cannot be used any more.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    pub(super) fn up(&self) {
        // Asked with each report: reading it takes no cache line from another core.
        if !self.is_up.load(Ordering::Relaxed) && !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!("Kafka takes records");
            self.gauge.set(1);
            self.latch.iter().for_each(Latch::open);
        }
    }

    pub(super) fn down(&self, error: &KafkaError) {
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "Kafka does not take records; the devices stay as they were last known");
            self.gauge.set(0);
            self.latch.iter().for_each(Latch::close);
        }
    }
}

/// Receives delivery reports.
pub(crate) struct Reports {
    health: Arc<Health>,
    metrics: Metrics,
    failover: Option<Arc<Failover>>,
}

impl Reports {
    pub(super) fn new(health: Arc<Health>, metrics: Metrics, failover: Option<Arc<Failover>>) -> Self {
        Self { health, metrics, failover }
    }
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(%error, reason, "the producer is broken");
                self.health.broken.cancel();
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.down(&error),
            _ => tracing::debug!(%error, reason, "Kafka client"),
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<DeliveryOf>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Box<DeliveryOf>) {
        let error = match result {
            Ok(_) => {
                self.health.up();
                None
            }
            Err((error, _)) => {
                // A purged record was given up before.
                if !is_purge(error) {
                    // Refusing one record does not mean that Kafka is down.
                    if !is_refusal(error) {
                        self.health.down(error);
                    }
                    self.metrics.produce_failures.inc();
                }
                Some(error)
            }
        };
        match (*opaque, &self.failover) {
            (DeliveryOf::Only(handle), _) => {
                handle.complete(if error.is_none() { Outcome::Stored } else { Outcome::Failed });
            }
            (DeliveryOf::Forwarded(batch, index), _) => batch.report(index, error),
            (DeliveryOf::Copy(seq), Some(failover)) => match error {
                None => failover.acknowledged(seq),
                Some(error) if is_refusal(error) => failover.refused(seq),
                Some(_) => failover.failed(seq),
            },
            // No copy is kept without a spool.
            (DeliveryOf::Copy(_), None) => {}
        }
    }
}

/// Says whether the record itself is what Kafka does not want: another try would end the same.
fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidRecord, InvalidTimestamp, MessageSizeTooLarge};
    matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | InvalidRecord | InvalidTimestamp))
}

fn is_purge(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{PurgeInflight, PurgeQueue};
    matches!(error.rdkafka_error_code(), Some(PurgeQueue | PurgeInflight))
}

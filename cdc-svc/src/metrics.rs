//! What the service counts.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Holds the metrics of one process.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Records acknowledged by Kafka, by topic; tombstones are records too.
    pub(crate) records: IntCounterVec,
    /// Kafka transactions committed.
    pub(crate) transactions: IntCounter,
    /// Snapshots completed.
    pub(crate) snapshots: IntCounter,
    /// Sessions that ended with a failure and were begun again.
    pub(crate) retries: IntCounter,
    /// 1 while this replica holds the slot, 0 while it waits for it.
    pub(crate) active: IntGauge,
    /// Bytes of WAL that the slot has not confirmed, whoever holds it.
    pub(crate) lag_bytes: IntGauge,
    /// Age of the oldest WAL that the slot has not confirmed.
    pub(crate) lag_seconds: Gauge,
    /// Bytes of WAL that the server keeps for the slot.
    pub(crate) retained_bytes: IntGauge,
    /// Standstills of the slot that began.
    pub(crate) stalls: IntCounter,
    /// Looks at the slot that the database did not answer.
    pub(crate) look_failures: IntCounter,
    /// From the commit in PostgreSQL to the acknowledgement by Kafka.
    pub(crate) capture_seconds: Histogram,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken (stop).
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let records = IntCounterVec::new(
            Opts::new(
                "cdc_records_total",
                "Records acknowledged by Kafka, by topic; tombstones are records too.",
            ),
            &["topic"],
        )?;
        let buckets = vec![0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 300.0];
        let capture = HistogramOpts::new(
            "cdc_capture_seconds",
            "From the commit in PostgreSQL to the acknowledgement by Kafka.",
        );
        let metrics = Self {
            records,
            transactions: IntCounter::new("cdc_kafka_transactions_total", "Kafka transactions committed.")?,
            snapshots: IntCounter::new("cdc_snapshots_total", "Snapshots completed.")?,
            retries: IntCounter::new(
                "cdc_session_retries_total",
                "Sessions that ended with a failure and were begun again.",
            )?,
            active: IntGauge::new(
                "cdc_active_flag",
                "1 while this replica holds the slot, 0 while it waits for it.",
            )?,
            lag_bytes: IntGauge::new(
                "cdc_slot_lag_bytes",
                "Bytes of WAL that the slot has not confirmed, whoever holds it.",
            )?,
            lag_seconds: Gauge::new(
                "cdc_slot_lag_seconds",
                "Age of the oldest WAL that the slot has not confirmed.",
            )?,
            retained_bytes: IntGauge::new(
                "cdc_slot_retained_bytes",
                "Bytes of WAL that the server keeps for the slot.",
            )?,
            stalls: IntCounter::new("cdc_stalls_total", "Standstills of the slot that began.")?,
            look_failures: IntCounter::new(
                "cdc_lag_failures_total",
                "Looks at the slot that the database did not answer.",
            )?,
            capture_seconds: Histogram::with_opts(capture.buckets(buckets))?,
        };
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.transactions.clone()))?;
        registry.register(Box::new(metrics.snapshots.clone()))?;
        registry.register(Box::new(metrics.retries.clone()))?;
        registry.register(Box::new(metrics.active.clone()))?;
        registry.register(Box::new(metrics.lag_bytes.clone()))?;
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.retained_bytes.clone()))?;
        registry.register(Box::new(metrics.stalls.clone()))?;
        registry.register(Box::new(metrics.look_failures.clone()))?;
        registry.register(Box::new(metrics.capture_seconds.clone()))?;
        Ok(metrics)
    }

    /// Returns a number that grows with every Kafka transaction, also with those that move no slot.
    pub(crate) fn steps(&self) -> u64 {
        self.transactions.get()
    }
}

//! What the service counts.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

/// Buckets of the time from a commit in PostgreSQL to Kafka's acknowledgement: some milliseconds when all is
/// well, minutes after an outage.
const CAPTURE_SECONDS: [f64; 11] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 300.0];

chassis::metrics! {
    /// Holds the metrics of one process.
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics {
        /// Records acknowledged by Kafka, by topic; tombstones are records too.
        pub(crate) records: IntCounterVec = "cdc_records_total" by ["topic"],
        /// Kafka transactions committed.
        pub(crate) transactions: IntCounter = "cdc_kafka_transactions_total",
        /// Snapshots completed.
        pub(crate) snapshots: IntCounter = "cdc_snapshots_total",
        /// Sessions that ended with a failure and were begun again.
        pub(crate) retries: IntCounter = "cdc_session_retries_total",
        /// 1 while this replica holds the slot, 0 while it waits for it.
        pub(crate) active: IntGauge = "cdc_active_flag",
        /// Bytes of WAL that the slot has not confirmed, whoever holds it.
        pub(crate) lag_bytes: IntGauge = "cdc_slot_lag_bytes",
        /// Age of the oldest WAL that the slot has not confirmed.
        pub(crate) lag_seconds: Gauge = "cdc_slot_lag_seconds",
        /// Bytes of WAL that the server keeps for the slot.
        pub(crate) retained_bytes: IntGauge = "cdc_slot_retained_bytes",
        /// Standstills of the slot that began.
        pub(crate) stalls: IntCounter = "cdc_stalls_total",
        /// Looks at the slot that the database did not answer.
        pub(crate) look_failures: IntCounter = "cdc_lag_failures_total",
        /// From the commit in PostgreSQL to the acknowledgement by Kafka.
        pub(crate) capture_seconds: Histogram = "cdc_capture_seconds" in CAPTURE_SECONDS,
    }
}

impl Metrics {
    /// Returns a number that grows with every Kafka transaction, also with those that move no slot.
    pub(crate) fn steps(&self) -> u64 {
        self.transactions.get()
    }
}

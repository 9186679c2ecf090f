//! Metrics of the service.

use prometheus::{Histogram, IntCounter, IntGauge};

/// Buckets from a commit that nothing delays to an outage of ten minutes.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 600.0];

chassis::metrics! {
    /// Holds the metrics of one process.
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics {
        /// Readings evaluated in committed transactions.
        pub(crate) readings: IntCounter = "alerting_readings_total",
        /// Alerts in committed transactions.
        pub(crate) alerts: IntCounter = "alerting_alerts_total",
        /// Alerts held back because the same reading had caused them before.
        pub(crate) repeats: IntCounter = "alerting_repeats_total",
        /// Alerts that opened an episode, in committed transactions.
        pub(crate) opened: IntCounter = "alerting_episodes_opened_total",
        /// Alerts that closed an episode, in committed transactions.
        pub(crate) closed: IntCounter = "alerting_episodes_closed_total",
        /// Alerts that a silence covers, in committed transactions; they are marked.
        pub(crate) silenced: IntCounter = "alerting_silenced_alerts_total",
        /// Violations by readings older than their episode's newest, which move nothing.
        pub(crate) late: IntCounter = "alerting_late_violations_total",
        /// Values of readings older than their threshold's `alertAgeSecondsMax`, which move nothing.
        pub(crate) aged: IntCounter = "alerting_aged_values_total",
        /// Episodes of thresholds in mode shadow that were opened, in committed transactions.
        pub(crate) shadow_episodes: IntCounter = "alerting_shadow_episodes_total",
        /// Violations of thresholds in mode shadow, in committed transactions.
        pub(crate) shadow_violations: IntCounter = "alerting_shadow_violations_total",
        /// Records that are no readings, in committed transactions; command-svc keeps them as dead letters.
        pub(crate) undecodable: IntCounter = "alerting_undecodable_records_total",
        /// Records of the tables that could not be read.
        pub(crate) unreadable_rules: IntCounter = "alerting_unreadable_rules_total",
        /// Sessions that ended with a failure and were begun again.
        pub(crate) retries: IntCounter = "alerting_session_retries_total",
        /// Thresholds whose last change cannot be read; the one before stays in force.
        pub(crate) unreadable_thresholds: IntGauge = "alerting_unreadable_thresholds",
        /// Episodes that are open, in the partitions of this instance; those in shadow count.
        pub(crate) open: IntGauge = "alerting_open_episodes",
        /// Partitions whose timers are due and wait for readings that are not evaluated yet.
        pub(crate) ticks_late: IntGauge = "alerting_late_ticks_partitions",
        /// Devices that are known, deleted ones too.
        pub(crate) devices: IntGauge = "alerting_devices_records",
        /// Silences that were not over at the last change of any.
        pub(crate) silences: IntGauge = "alerting_silences_records",
        /// Thresholds in force.
        pub(crate) thresholds: IntGauge = "alerting_thresholds_records",
        /// From the first acknowledgement waited for to the end of the transaction.
        pub(crate) commit_seconds: Histogram = "alerting_commit_seconds" in SECONDS,
        /// From the gateway's receipt of a reading to the commit of its alert.
        pub(crate) alert_seconds: Histogram = "alerting_reading_to_alert_seconds" in SECONDS,
    }
}

//! What the service counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// Holds the metrics of one process.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Readings evaluated in committed transactions.
    pub(crate) readings: IntCounter,
    /// Alerts in committed transactions.
    pub(crate) alerts: IntCounter,
    /// Alerts held back because the same reading had caused them before.
    pub(crate) repeats: IntCounter,
    /// Violations of thresholds in mode shadow, in committed transactions.
    pub(crate) shadow_violations: IntCounter,
    /// Records that are no readings, in committed transactions; command-svc keeps them as dead letters.
    pub(crate) undecodable: IntCounter,
    /// Records of the threshold table that could not be read.
    pub(crate) unreadable_rules: IntCounter,
    /// Sessions that ended with a failure and were begun again.
    pub(crate) retries: IntCounter,
    /// Thresholds whose last change cannot be read.
    pub(crate) unreadable_thresholds: IntGauge,
    /// Thresholds in force.
    pub(crate) thresholds: IntGauge,
    /// From the first acknowledgement waited for to the end of the transaction.
    pub(crate) commit_seconds: Histogram,
    /// From the gateway's receipt of a reading to the commit of its alert.
    pub(crate) alert_seconds: Histogram,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken (stop).
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let seconds = |name: &str, help: &str| -> prometheus::Result<Histogram> {
            let buckets =
                vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 600.0];
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        Ok(Self {
            readings: counter("alerting_readings_total", "Readings evaluated in committed transactions.")?,
            alerts: counter("alerting_alerts_total", "Alerts in committed transactions.")?,
            repeats: counter(
                "alerting_repeats_total",
                "Alerts held back because the same reading had caused them before.",
            )?,
            shadow_violations: counter(
                "alerting_shadow_violations_total",
                "Violations of thresholds in mode shadow, in committed transactions.",
            )?,
            undecodable: counter(
                "alerting_undecodable_records_total",
                "Records that are no readings, in committed transactions; command-svc keeps them as dead letters.",
            )?,
            unreadable_rules: counter(
                "alerting_unreadable_rules_total",
                "Records of the threshold table that could not be read.",
            )?,
            retries: counter(
                "alerting_session_retries_total",
                "Sessions that ended with a failure and were begun again.",
            )?,
            unreadable_thresholds: gauge(
                "alerting_unreadable_thresholds",
                "Thresholds whose last change cannot be read; the one before stays in force.",
            )?,
            thresholds: gauge("alerting_thresholds_records", "Thresholds in force.")?,
            commit_seconds: seconds(
                "alerting_commit_seconds",
                "From the first acknowledgement waited for to the end of the transaction.",
            )?,
            alert_seconds: seconds(
                "alerting_reading_to_alert_seconds",
                "From the gateway's receipt of a reading to the commit of its alert.",
            )?,
        })
    }
}

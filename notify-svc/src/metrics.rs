//! Metrics of the notification service.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, exponential_buckets};

chassis::metrics! {
    /// Holds every metric of the service but those of the watches on progress, one for each target.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Alerts that a target has taken.
        pub(crate) delivered: IntCounterVec = "notify_delivered_total" by ["target"],
        /// Calls of a target that failed and are followed by another.
        pub(crate) retries: IntCounterVec = "notify_retries_total" by ["target"],
        /// Alerts that a target did not get, sent to the dead letter topic.
        pub(crate) dead_letters: IntCounterVec = "notify_dead_letters_total" by ["target", "reason"],
        /// Alerts that are not for the target, by its matchers.
        pub(crate) passed_over: IntCounterVec = "notify_passed_over_total" by ["target"],
        /// 1 while calls of a target are held back because it fails.
        pub(crate) circuit_open: IntGaugeVec = "notify_circuit_open" by ["target"],
        /// Time from the alert to the target's answer that it has it.
        pub(crate) seconds: HistogramVec =
            "notify_detected_to_delivered_seconds" by ["target"] in exponential_buckets(0.01, 2.0, 20)?,
        /// Records that are no alert; command-svc keeps them as dead letters.
        pub(crate) undecodable: IntCounter = "notify_undecodable_records_total",
    }
}

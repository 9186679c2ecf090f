//! Metrics of the command service.

use chassis::kafka::WatchMetrics;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// Holds every metric; the help texts are the documentation.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) rows_inserted: IntCounter,
    pub(crate) rows_duplicate: IntCounter,
    pub(crate) dead_letters: IntCounter,
    pub(crate) dead_letters_lost: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) batch_rows: Histogram,
    pub(crate) write_seconds: Histogram,
    pub(crate) received_to_row_seconds: Histogram,
    pub(crate) watch: WatchMetrics,
    pub(crate) partitions_dropped: IntCounter,
    pub(crate) maintenance_failures: IntCounter,
    pub(crate) maintenance_success: IntGauge,
    pub(crate) jobs_failed: IntGauge,
    pub(crate) hours_refreshed: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// A name is registered already (stop).
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let histogram = |name, help, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let seconds = || prometheus::exponential_buckets(0.001, 2.0, 16);
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        Ok(Self {
            rows_inserted: counter("command_rows_inserted_total", "Rows that were new.")?,
            rows_duplicate: counter("command_rows_duplicate_total", "Rows that were stored already.")?,
            dead_letters: counter("command_dead_letters_total", "Records sent to the dead letter topic.")?,
            dead_letters_lost: counter(
                "command_dead_letters_lost_total",
                "Records that the dead letter topic refuses whole and truncated; the source topic still has them.",
            )?,
            retries: counter("command_retries_total", "Batches tried again because the database was away.")?,
            batch_rows: histogram(
                "command_batch_rows",
                "Rows in a batch.",
                prometheus::exponential_buckets(1.0, 2.0, 15)?,
            )?,
            write_seconds: histogram("command_write_seconds", "Time to write a batch.", seconds()?)?,
            received_to_row_seconds: histogram(
                "command_received_to_row_seconds",
                "Time from the gateway's receipt of a reading to its committed row.",
                seconds()?,
            )?,
            watch: WatchMetrics::register(registry, "command")?,
            partitions_dropped: counter(
                "command_partitions_dropped_total",
                "Partitions or chunks of raw readings dropped by retention.",
            )?,
            maintenance_failures: counter(
                "command_maintenance_failures_total",
                "Turns of partition maintenance that failed.",
            )?,
            maintenance_success: gauge(
                "command_maintenance_success_timestamp_seconds",
                "Unix time at which partition maintenance last ended well.",
            )?,
            jobs_failed: gauge(
                "command_timescale_failed_jobs",
                "Background jobs of TimescaleDB whose last run failed, as of the last maintenance.",
            )?,
            hours_refreshed: gauge(
                "command_timescale_refresh_timestamp_seconds",
                "Unix time at which TimescaleDB last refreshed the hours, as of the last maintenance; else 0.",
            )?,
        })
    }
}

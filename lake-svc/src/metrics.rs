//! Metrics of the lake service.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// Holds every metric; the help texts are the documentation.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) files: IntCounter,
    pub(crate) file_bytes: IntCounter,
    pub(crate) rows: IntCounter,
    pub(crate) undecodable: IntCounter,
    pub(crate) offsets_skipped: IntCounter,
    pub(crate) outrun: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) write_seconds: Histogram,
    pub(crate) buffered_bytes: IntGauge,
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
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let write_seconds = Histogram::with_opts(
            HistogramOpts::new("lake_write_seconds", "Time to lay out a cut and write its files.")
                .buckets(prometheus::exponential_buckets(0.01, 2.0, 14)?),
        )?;
        registry.register(Box::new(write_seconds.clone()))?;
        Ok(Self {
            files: counter("lake_files_total", "Parquet files written.")?,
            file_bytes: counter("lake_file_bytes_total", "Bytes of the Parquet files written.")?,
            rows: counter("lake_rows_total", "Rows, one per metric value, in the files written.")?,
            undecodable: counter(
                "lake_undecodable_records_total",
                "Records that are no readings and are in no file; command-svc keeps them as dead letters.",
            )?,
            offsets_skipped: counter(
                "lake_offsets_skipped_total",
                "Offsets that Kafka did not have any more when the lake came to read them.",
            )?,
            outrun: counter(
                "lake_cuts_outrun_total",
                "Cuts dropped because another instance had cut from the same offset.",
            )?,
            retries: counter(
                "lake_retries_total",
                "Questions to the store tried again because it was away.",
            )?,
            write_seconds,
            buffered_bytes: gauge("lake_buffered_bytes", "Bytes of records that are in no file yet.")?,
        })
    }
}

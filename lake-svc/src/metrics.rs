//! Metrics of the lake service.

use prometheus::{Histogram, IntCounter, IntGauge, exponential_buckets};

chassis::metrics! {
    /// Holds every metric of the service but those of the watch on progress.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Parquet files written.
        pub(crate) files: IntCounter = "lake_files_total",
        /// Bytes of the Parquet files written.
        pub(crate) file_bytes: IntCounter = "lake_file_bytes_total",
        /// Rows, one per metric value, in the files written.
        pub(crate) rows: IntCounter = "lake_rows_total",
        /// Records that are no readings and are in no file; command-svc keeps them as dead letters.
        pub(crate) undecodable: IntCounter = "lake_undecodable_records_total",
        /// Offsets that Kafka did not have any more when the lake came to read them.
        pub(crate) offsets_skipped: IntCounter = "lake_offsets_skipped_total",
        /// Cuts dropped because another instance had cut from the same offset.
        pub(crate) outrun: IntCounter = "lake_cuts_outrun_total",
        /// Questions to the store tried again because it was away.
        pub(crate) retries: IntCounter = "lake_retries_total",
        /// Time to lay out a cut and write its files.
        pub(crate) write_seconds: Histogram = "lake_write_seconds" in exponential_buckets(0.01, 2.0, 14)?,
        /// Bytes of records that are in no file yet.
        pub(crate) buffered_bytes: IntGauge = "lake_buffered_bytes",
    }
}

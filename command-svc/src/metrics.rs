//! Metrics of the command service.

use prometheus::{Histogram, IntCounter, IntGauge, exponential_buckets};

chassis::metrics! {
    /// Holds every metric of the service but those of the watch on progress.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Rows that were new.
        pub(crate) rows_inserted: IntCounter = "command_rows_inserted_total",
        /// Rows that were stored already.
        pub(crate) rows_duplicate: IntCounter = "command_rows_duplicate_total",
        /// Records sent to the dead letter topic.
        pub(crate) dead_letters: IntCounter = "command_dead_letters_total",
        /// Records that the dead letter topic refuses whole and truncated; the source topic still has them.
        pub(crate) dead_letters_lost: IntCounter = "command_dead_letters_lost_total",
        /// Batches tried again because the database was away.
        pub(crate) retries: IntCounter = "command_retries_total",
        /// Rows in a batch.
        pub(crate) batch_rows: Histogram = "command_batch_rows" in exponential_buckets(1.0, 2.0, 15)?,
        /// Time to write a batch.
        pub(crate) write_seconds: Histogram =
            "command_write_seconds" in exponential_buckets(0.001, 2.0, 16)?,
        /// Time from the gateway's receipt of a reading to its committed row.
        pub(crate) received_to_row_seconds: Histogram =
            "command_received_to_row_seconds" in exponential_buckets(0.001, 2.0, 16)?,
        /// Rows of episodes that were new or changed.
        pub(crate) episodes_changed: IntCounter = "command_episodes_changed_total",
        /// Batches of alerts tried again because the database was away.
        pub(crate) episode_retries: IntCounter = "command_episodes_retries_total",
        /// Alerts that name no episode, written before there were any.
        pub(crate) alerts_without_episode: IntCounter = "command_alerts_without_episode_total",
        /// Closed episodes that retention deleted.
        pub(crate) episodes_deleted: IntCounter = "command_episodes_deleted_total",
        /// Partitions or chunks of raw readings dropped by retention.
        pub(crate) partitions_dropped: IntCounter = "command_partitions_dropped_total",
        /// Turns of partition maintenance that failed.
        pub(crate) maintenance_failures: IntCounter = "command_maintenance_failures_total",
        /// Unix time at which partition maintenance last ended well.
        pub(crate) maintenance_success: IntGauge = "command_maintenance_success_timestamp_seconds",
        /// Background jobs of TimescaleDB whose last run failed, as of the last maintenance.
        pub(crate) jobs_failed: IntGauge = "command_timescale_failed_jobs",
        /// Unix time at which TimescaleDB last refreshed the hours, as of the last maintenance; else 0.
        pub(crate) hours_refreshed: IntGauge = "command_timescale_refresh_timestamp_seconds",
    }
}

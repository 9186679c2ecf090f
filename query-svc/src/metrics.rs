//! What query-svc counts beside its requests.

use prometheus::IntCounter;

chassis::metrics! {
    /// Counts what the service does.
    #[derive(Clone)]
    pub(crate) struct Metrics {
        /// Answers about hours that were read from the database; every other request shared one or found it
        /// in the cache.
        pub(crate) hours_loads: IntCounter = "query_hours_loads_total",
    }
}

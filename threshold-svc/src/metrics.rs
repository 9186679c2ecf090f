//! What threshold-svc counts beside its requests.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

chassis::metrics! {
    /// Counts what backtests do.
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics {
        /// Backtests by outcome: complete, truncated at a bound, busy (refused), or unfinished, because they
        /// failed or their caller left.
        pub(crate) backtests: IntCounterVec = "threshold_backtests_total" by ["outcome"],
        /// Backtests that are under way.
        pub(crate) backtests_under_way: IntGauge = "threshold_backtests_under_way",
        /// Stored values that backtests have evaluated.
        pub(crate) backtest_readings: IntCounter = "threshold_backtest_readings_total",
    }
}

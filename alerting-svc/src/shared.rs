//! What the sessions of a process share.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::tables::Tables;
use chassis::Chassis;
use chassis::kafka::Assignment;
use tokio_util::sync::CancellationToken;

/// Holds what every session of the process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    pub(crate) tables: Tables,
    pub(crate) assignment: Assignment,
    /// Ends the sessions: the shutdown, or the end of the table reader.
    pub(crate) stop: CancellationToken,
}

//! What the sessions of a process share.

use crate::config::Config;
use crate::metrics::Metrics;
use chassis::Chassis;
use chassis::kafka::Assignment;
use rules::Rules;
use std::sync::{Arc, RwLock};
use tokio_util::sync::CancellationToken;

/// Holds what every session of the process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    pub(crate) rules: Arc<RwLock<Rules>>,
    pub(crate) assignment: Assignment,
    /// Ends the sessions: the shutdown, or the end of the table reader.
    pub(crate) stop: CancellationToken,
}

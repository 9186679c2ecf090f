//! What all connections share. Imports what has no part in a connection of its own.

use crate::config::Limits;
use crate::device::{account, connections, registry};
use crate::durable::producer;
use crate::{decode, metrics, notices};
use chassis::auth::Verifier;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What every connection shares.
pub(crate) struct Gateway {
    pub(crate) limits: Limits,
    pub(crate) timestamps: decode::TimestampBounds,
    pub(crate) registry: registry::Registry,
    pub(crate) connections: Arc<connections::Connections>,
    pub(crate) producer: producer::Producer,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) notices: notices::Notices,
    pub(crate) accounts: Arc<account::Accounts>,
    pub(crate) tokens: Option<Verifier>,
    pub(crate) shutdown: CancellationToken,
}

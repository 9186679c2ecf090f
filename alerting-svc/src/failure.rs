//! What a failure of a session ends.

use chassis::kafka::TransactionError;
use chassis::retry::Disposition;

/// Says what a failure ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The transaction: the group has another generation than its readings. Abort, and read them again.
    #[error("transaction")]
    Regrouped(#[source] anyhow::Error),
    /// The session: begin again from the committed offsets.
    #[error("session")]
    Retry(#[source] anyhow::Error),
    /// The process.
    #[error("process")]
    Stop(#[source] anyhow::Error),
}

impl Failure {
    /// Says what a session that ends with it asks for.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Regrouped(_) | Self::Retry(_) => Disposition::Retry,
            Self::Stop(_) => Disposition::Stop,
        }
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        if error.is_regrouped() {
            return Self::Regrouped(error.into());
        }
        match error.disposition() {
            Disposition::Stop => Self::Stop(error.into()),
            Disposition::Retry | Disposition::DeadLetter => Self::Retry(error.into()),
        }
    }
}

//! Why a step of a session failed, and what follows.

use chassis::retry::Disposition;

/// Says why a step of a session failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Another replica was faster to the slot or the snapshot.
    #[error("another replica holds the slot")]
    Taken,
    /// Another replica held the slot or took the snapshot, and does so no more.
    #[error("the slot is free")]
    Freed,
    /// The service is to stop.
    #[error("shutting down")]
    Shutdown,
    /// PostgreSQL is away or refuses (retry).
    #[error("database")]
    Database(#[source] anyhow::Error),
    /// Kafka is away or refuses (retry).
    #[error("kafka")]
    Kafka(#[source] anyhow::Error),
    /// Trying again would not help (stop).
    #[error("unusable")]
    Stop(#[source] anyhow::Error),
}

impl Failure {
    /// Says what follows, once no other replica works.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Taken | Self::Freed | Self::Database(_) | Self::Kafka(_) => Disposition::Retry,
            Self::Shutdown | Self::Stop(_) => Disposition::Stop,
        }
    }
}

/// Marks an error as the database's.
pub(crate) fn database<E>(step: &'static str) -> impl FnOnce(E) -> Failure
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |error| Failure::Database(anyhow::Error::new(error).context(step))
}

/// Marks an error as one that trying again does not heal.
pub(crate) fn stop<E>(step: &'static str) -> impl FnOnce(E) -> Failure
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |error| Failure::Stop(anyhow::Error::new(error).context(step))
}

//! One session: take the slot, fence the predecessor, stream until something ends it.

use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::slot::{self, State};
use crate::{Config, snapshot, stream};
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::postgres::SchemaError;
use pgwire_replication::ReplicationClient;
use std::future::Future;
use std::time::Duration;

/// The liveness beat goes on at least so often while a server is waited for; each such wait has its own bound.
const BEAT: Duration = Duration::from_secs(5);

/// Says why a step of a session failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Another replica holds the slot, or takes the snapshot.
    #[error("another replica holds the slot")]
    Taken,
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

/// Says how a session ended.
pub(crate) enum Ended {
    /// As asked.
    Shutdown,
    /// Another replica works.
    Standby,
    /// Worth another try.
    Retry {
        /// What failed.
        error: anyhow::Error,
        /// Whether it got as far as streaming, so that the next failure is the first again.
        had_streamed: bool,
    },
    /// Not worth another try.
    Stop(anyhow::Error),
}

/// Holds what every session of the process shares.
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    postgres: Latch,
    kafka: Latch,
}

impl Session {
    pub(crate) fn new(config: Config, chassis: Chassis, metrics: Metrics) -> Self {
        let (postgres, kafka) = (chassis.readiness.latch("postgres"), chassis.readiness.latch("kafka"));
        Self { config, chassis, metrics, postgres, kafka }
    }

    /// Runs one session to its end; `attempt` chooses among several database hosts.
    pub(crate) async fn run(&self, attempt: u32) -> Ended {
        let mut had_streamed = false;
        let Err(failure) = self.steps(attempt, &mut had_streamed).await else { return Ended::Shutdown };
        match failure {
            Failure::Shutdown => Ended::Shutdown,
            Failure::Taken => Ended::Standby,
            Failure::Stop(error) => Ended::Stop(error),
            Failure::Database(error) => {
                self.postgres.close();
                Ended::Retry { error: error.context("database"), had_streamed }
            }
            Failure::Kafka(error) => {
                self.kafka.close();
                Ended::Retry { error: error.context("kafka"), had_streamed }
            }
        }
    }

    async fn steps(&self, attempt: u32, had_streamed: &mut bool) -> Result<(), Failure> {
        // A standby must be able to take over, so every session looks at both sides first.
        self.patiently(crate::topic::check(&self.config.kafka)).await?.map_err(Failure::Kafka)?;
        let control = self.control().await?;
        match slot::state(&control, &self.config.slot).await? {
            State::Free => {}
            State::Taken => {
                self.open();
                return Err(Failure::Taken);
            }
            State::Absent => self.snapshot(attempt, &control).await?,
            State::Invalid => {
                tracing::warn!(slot = self.config.slot, "slot has lost its WAL; taking a new snapshot");
                slot::drop_slot(&control, &self.config.slot).await?;
                self.snapshot(attempt, &control).await?;
            }
        }
        let mut source = self.take_slot(attempt).await?;
        self.metrics.active.set(1);
        let mut sink = self.sink().await?;
        self.open();
        tracing::info!(slot = self.config.slot, "streaming");
        *had_streamed = true;
        stream::run(self, &mut source, &mut sink).await
    }

    fn open(&self) {
        self.postgres.open();
        self.kafka.open();
    }

    /// Opens a plain connection and checks the schema version.
    async fn control(&self) -> Result<tokio_postgres::Client, Failure> {
        let connected = self.patiently(self.config.postgres.connect()).await?;
        let control = connected.map_err(Failure::Database)?;
        match chassis::postgres::check_version(&control, &schema::migrations::VERSIONS).await {
            Ok(()) => Ok(control),
            Err(SchemaError::Unavailable(error)) => {
                Err(Failure::Database(error.context("read the schema version")))
            }
            Err(error) => Err(Failure::Stop(error.into())),
        }
    }

    async fn snapshot(&self, attempt: u32, control: &tokio_postgres::Client) -> Result<(), Failure> {
        let exported = snapshot::export(self, attempt, control).await?;
        self.metrics.active.set(1);
        let mut sink = self.sink().await?;
        snapshot::run(self, exported, control, &mut sink).await
    }

    /// Takes the slot: from here on no other replica can.
    async fn take_slot(&self, attempt: u32) -> Result<ReplicationClient, Failure> {
        let config = slot::replication(&self.config, attempt)?;
        let taken = self.patiently(async {
            let mut source = ReplicationClient::connect(config).await?;
            source.wait_started().await?;
            Ok(source)
        });
        taken.await?.map_err(slot::failure("take the slot"))
    }

    /// Fences the predecessor. Only the holder of a slot may call it.
    async fn sink(&self) -> Result<Sink, Failure> {
        let started = self.patiently(Sink::start(&self.config, &self.metrics)).await?;
        started.map_err(Failure::Kafka)
    }

    /// Waits for a step while the liveness beat goes on, unless the service is to stop.
    pub(crate) async fn patiently<T>(&self, step: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::pin!(step);
        loop {
            self.chassis.liveness.beat();
            tokio::select! {
                outcome = &mut step => return Ok(outcome),
                () = self.chassis.shutdown.cancelled() => return Err(Failure::Shutdown),
                () = tokio::time::sleep(BEAT) => {}
            }
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

//! What every step of a session needs: settings, latches, metrics, and waits that go on beating.

use crate::Config;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::slot;
use chassis::Chassis;
use chassis::admin::Latch;
use std::time::Duration;
use tokio_postgres::Client;

/// Longest time between two liveness beats while a server is waited for; each such wait has its own bound.
const BEAT: Duration = Duration::from_secs(5);
/// Timeout after which a server counts as unreachable: longer than a start of a connection, with its
/// certificates, on a busy machine.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Holds what every session of the process shares.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) chassis: Chassis,
    pub(crate) metrics: Metrics,
    /// Name of the captured database.
    pub(crate) database: String,
    postgres: Latch,
    kafka: Latch,
}

impl Context {
    /// Reads the database's name and makes the latches.
    ///
    /// # Errors
    /// The database's URL cannot be read (stop).
    pub(crate) fn new(config: Config, chassis: Chassis, metrics: Metrics) -> anyhow::Result<Self> {
        let (postgres, kafka) = (chassis.readiness.latch("postgres"), chassis.readiness.latch("kafka"));
        let database = slot::database_of(&config.postgres.config()?).to_owned();
        Ok(Self { config, chassis, metrics, database, postgres, kafka })
    }

    /// Opens both latches.
    pub(crate) fn open(&self) {
        self.postgres.open();
        self.kafka.open();
    }

    /// Closes the latch of the server that a session failed by.
    pub(crate) fn close(&self, failure: &Failure) {
        match failure {
            Failure::Database(_) => self.postgres.close(),
            Failure::Kafka(_) => self.kafka.close(),
            Failure::Taken | Failure::Freed | Failure::Shutdown | Failure::Stop(_) => {}
        }
    }

    /// Opens a plain connection. Each host of the URL is tried in turn.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let connect = async { self.config.postgres.connect().await.map_err(Failure::Database) };
        self.answered("connect", connect).await
    }

    /// Waits for an answer of the database as [`Context::patiently`] does, but not for ever: a server that is
    /// frozen keeps its connections.
    pub(crate) async fn answered<T>(
        &self,
        step: &'static str,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answer = self.patiently(tokio::time::timeout(ANSWER_MAX, answer)).await?;
        answer.unwrap_or_else(|_| Err(Failure::Database(anyhow::anyhow!("no answer: {step}"))))
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

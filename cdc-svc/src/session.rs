//! One session: take the slot, fence the predecessor, stream until something ends it.

use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::slot::{self, State};
use crate::topic::Probe;
use crate::{Config, snapshot, stream};
use chassis::Chassis;
use chassis::admin::Latch;
use chassis::postgres::SchemaError;
use pgwire_replication::ReplicationClient;
use std::future::Future;
use std::time::{Duration, Instant};

/// Longest time between two liveness beats while a server is waited for; each such wait has its own bound.
const BEAT: Duration = Duration::from_secs(5);
/// Timeout after which a server counts as unreachable: longer than a start of a connection, with its
/// certificates, on a busy machine.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Interval at which a standby looks at the slot: what a fail-over costs, and one small query each.
const STANDBY_LOOK: Duration = Duration::from_millis(500);
/// Interval at which a standby makes sure that it could reach Kafka.
const KAFKA_LOOK: Duration = Duration::from_secs(10);

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

/// Says how a session ended.
pub(crate) enum Ended {
    /// As asked.
    Shutdown,
    /// Another replica works, or did until now.
    Standby {
        /// How long to wait before the next look.
        wait: Duration,
    },
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
        // On the heap, as large as it is.
        let steps = Box::pin(self.steps(attempt, &mut had_streamed));
        let Err(failure) = steps.await else { return Ended::Shutdown };
        match failure {
            Failure::Shutdown => Ended::Shutdown,
            Failure::Taken => Ended::Standby { wait: STANDBY_LOOK },
            Failure::Freed => Ended::Standby { wait: Duration::ZERO },
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
        let probe = Probe::new(&self.config.kafka).map_err(Failure::Stop)?;
        self.look_at_kafka(&probe).await?;
        let control = self.control().await?;
        match self.state(&control).await? {
            State::Free => {}
            State::Taken => return self.stand_by(&probe, &control).await,
            State::Absent => self.snapshot(attempt, &control).await?,
            State::Invalid => {
                tracing::warn!(slot = self.config.slot, "slot has lost its WAL; taking a new snapshot");
                self.answered("drop the lost slot", slot::drop_slot(&control, &self.config.slot)).await?;
                self.snapshot(attempt, &control).await?;
            }
        }
        self.answered("look at the publication", slot::check_publication(&control)).await?;
        let mut source = self.take_slot(attempt).await?;
        self.metrics.active.set(1);
        let mut sink = self.sink().await?;
        self.open();
        tracing::info!(slot = self.config.slot, "streaming");
        *had_streamed = true;
        stream::run(self, &mut source, &mut sink).await
    }

    /// Waits, ready, until nobody holds the slot any more, on one connection to each side.
    async fn stand_by(&self, probe: &Probe, control: &tokio_postgres::Client) -> Result<(), Failure> {
        self.open();
        tracing::info!(slot = self.config.slot, "another replica holds the slot; standing by");
        let mut looked = Instant::now();
        while self.state(control).await? == State::Taken {
            self.patiently(tokio::time::sleep(STANDBY_LOOK)).await?;
            if looked.elapsed() >= KAFKA_LOOK {
                self.look_at_kafka(probe).await?;
                looked = Instant::now();
            }
        }
        Err(Failure::Freed)
    }

    async fn look_at_kafka(&self, probe: &Probe) -> Result<(), Failure> {
        self.patiently(probe.check()).await?.map_err(Failure::Kafka)
    }

    /// Looks at the slot. One that a replica is about to make from its snapshot counts as taken.
    async fn state(&self, control: &tokio_postgres::Client) -> Result<State, Failure> {
        let slot = &self.config.slot;
        let look = async {
            match slot::state(control, slot).await? {
                State::Absent if slot::has_snapshot(control, slot).await? => Ok(State::Taken),
                state => Ok(state),
            }
        };
        self.answered("look at the slot", look).await
    }

    fn open(&self) {
        self.postgres.open();
        self.kafka.open();
    }

    /// Opens a plain connection and checks the schema version.
    async fn control(&self) -> Result<tokio_postgres::Client, Failure> {
        let control = self.connect().await?;
        let versions = schema::migrations::VERSIONS;
        let check = async { Ok(chassis::postgres::check_version(&control, &versions).await) };
        match self.answered("read the schema version", check).await? {
            Ok(()) => Ok(control),
            Err(SchemaError::Unavailable(error)) => {
                Err(Failure::Database(error.context("read the schema version")))
            }
            Err(error) => Err(Failure::Stop(error.into())),
        }
    }

    /// Opens a plain connection. Each host of the URL is tried in turn.
    pub(crate) async fn connect(&self) -> Result<tokio_postgres::Client, Failure> {
        let connect = async { self.config.postgres.connect().await.map_err(Failure::Database) };
        self.answered("connect", connect).await
    }

    async fn snapshot(&self, attempt: u32, control: &tokio_postgres::Client) -> Result<(), Failure> {
        let exported = snapshot::export(self, attempt, control).await?;
        self.metrics.active.set(1);
        let mut sink = self.sink().await?;
        Box::pin(snapshot::run(self, exported, control, &mut sink)).await
    }

    /// Takes the slot: from here on no other replica can.
    async fn take_slot(&self, attempt: u32) -> Result<ReplicationClient, Failure> {
        let config = slot::replication(&self.config, attempt)?;
        let take = async {
            let mut source =
                ReplicationClient::connect(config).await.map_err(slot::failure("take the slot"))?;
            source.wait_started().await.map_err(slot::failure("take the slot"))?;
            Ok(source)
        };
        self.answered("take the slot", take).await
    }

    /// Fences the predecessor. Only the holder of a slot may call it.
    async fn sink(&self) -> Result<Sink, Failure> {
        let started = self.patiently(Sink::start(&self.config, &self.metrics)).await?;
        started.map_err(Failure::Kafka)
    }

    /// Waits for an answer of the database as [`Session::patiently`] does, but not for ever: a server that is
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

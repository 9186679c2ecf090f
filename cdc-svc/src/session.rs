//! One session: take the slot, fence the predecessor, stream until something ends it.

use crate::context::Context;
use crate::failure::Failure;
use crate::mark::{Found, Mark};
use crate::sink::Sink;
use crate::slot::{self, State};
use crate::topic::Probe;
use crate::{snapshot, stream};
use chassis::postgres::SchemaError;
use chassis::retry::Try;
use pgwire_replication::ReplicationClient;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Interval at which a standby looks at the slot: what a fail-over costs, and one small query each.
const STANDBY_LOOK: Duration = Duration::from_millis(500);
/// Interval between looks whether a slot that was given up is free.
const FREE_LOOK: Duration = Duration::from_millis(50);
/// Interval at which a standby makes sure that it could reach Kafka.
const KAFKA_LOOK: Duration = Duration::from_secs(10);

/// Runs one session after the other until the shutdown or a failure; the number of the try chooses among
/// several database hosts. A session that finds another replica at work is followed by the next.
pub(crate) async fn run(context: &Context, one: Try) -> Result<(), Failure> {
    let session = Session { context, one };
    loop {
        context.chassis.liveness.beat();
        // On the heap, as large as it is.
        let ended = Box::pin(session.steps()).await;
        context.metrics.active.set(0);
        let wait = match ended {
            Ok(()) | Err(Failure::Shutdown) => return Ok(()),
            Err(Failure::Taken) => STANDBY_LOOK,
            Err(Failure::Freed) => Duration::ZERO,
            Err(failure) => {
                context.close(&failure);
                return Err(failure);
            }
        };
        // It has found both servers in order.
        session.one.worked();
        if context.patiently(tokio::time::sleep(wait)).await.is_err() {
            return Ok(());
        }
    }
}

struct Session<'a> {
    context: &'a Context,
    one: Try,
}

impl Session<'_> {
    async fn steps(&self) -> Result<(), Failure> {
        let Self { context, one } = self;
        // A standby must be able to take over, so every session looks at both sides first.
        let probe = Probe::new(&context.config.kafka).map_err(Failure::Stop)?;
        self.look_at_kafka(&probe).await?;
        let control = self.control().await?;
        match self.state(&control).await? {
            State::Free => {}
            State::Taken => return self.stand_by(&probe, &control).await,
            State::Absent => self.snapshot(&control).await?,
            State::Invalid => {
                tracing::warn!(slot = context.config.slot, "slot has lost its WAL; taking a new snapshot");
                context
                    .answered("drop the lost slot", slot::drop_slot(&control, &context.config.slot))
                    .await?;
                self.snapshot(&control).await?;
            }
        }
        context.answered("look at the publication", slot::check_publication(&control)).await?;
        let mut source = self.take_slot().await?;
        context.metrics.active.set(1);
        let mut sink = self.sink().await?;
        let found = context.answered("look at the WAL", slot::found(&control, &context.config.slot)).await?;
        if let Some(doubt) = self.doubt(&probe, &found).await? {
            let slot = &context.config.slot;
            tracing::warn!(slot, doubt, "slot does not continue what the topics hold; taking a new snapshot");
            source.stop();
            drop(source);
            return self.forget_slot(&control).await;
        }
        context.open();
        tracing::info!(slot = context.config.slot, "streaming");
        one.worked();
        stream::run(context, found.wal, &mut source, &mut sink).await
    }

    /// Waits, ready, until nobody holds the slot any more, on one connection to each side.
    async fn stand_by(&self, probe: &Probe, control: &Client) -> Result<(), Failure> {
        self.context.open();
        tracing::info!(slot = self.context.config.slot, "another replica holds the slot; standing by");
        let mut looked = Instant::now();
        while self.state(control).await? == State::Taken {
            self.context.patiently(tokio::time::sleep(STANDBY_LOOK)).await?;
            if looked.elapsed() >= KAFKA_LOOK {
                self.look_at_kafka(probe).await?;
                looked = Instant::now();
            }
        }
        Err(Failure::Freed)
    }

    async fn look_at_kafka(&self, probe: &Probe) -> Result<(), Failure> {
        self.context.patiently(probe.check()).await?.map_err(Failure::Kafka)
    }

    /// Looks at the slot. One that a replica is about to make from its snapshot counts as taken.
    async fn state(&self, control: &Client) -> Result<State, Failure> {
        let slot = &self.context.config.slot;
        let look = async {
            match slot::state(control, slot).await? {
                State::Absent if slot::has_snapshot(control, slot).await? => Ok(State::Taken),
                state => Ok(state),
            }
        };
        self.context.answered("look at the slot", look).await
    }

    /// Opens a plain connection and checks the schema version.
    async fn control(&self) -> Result<Client, Failure> {
        let control = self.context.connect().await?;
        let versions = schema::migrations::VERSIONS;
        let check = async { Ok(chassis::postgres::check_version(&control, &versions).await) };
        match self.context.answered("read the schema version", check).await? {
            Ok(()) => Ok(control),
            Err(SchemaError::Unavailable(error)) => {
                Err(Failure::Database(error.context("read the schema version")))
            }
            Err(error) => Err(Failure::Stop(error.into())),
        }
    }

    /// Says why the slot that this session holds does not continue what the topics hold; none when it does.
    async fn doubt(&self, probe: &Probe, found: &Found) -> Result<Option<&'static str>, Failure> {
        // No predecessor can move the mark any more, nor hold it back with an open transaction: it is fenced.
        let mark = self.context.patiently(probe.mark()).await?.map_err(Failure::Kafka)?;
        let doubt = |mark: &Mark| mark.doubt(&self.context.config.slot, found);
        Ok(mark.as_ref().map_or(Some("the topics hold no mark"), doubt))
    }

    /// Drops the slot once the server has heard that this session holds it no more; the next session takes a
    /// snapshot.
    async fn forget_slot(&self, control: &Client) -> Result<(), Failure> {
        while self.state(control).await? == State::Taken {
            self.context.patiently(tokio::time::sleep(FREE_LOOK)).await?;
        }
        self.context.answered("drop the slot", slot::drop_slot(control, &self.context.config.slot)).await?;
        Err(Failure::Freed)
    }

    async fn snapshot(&self, control: &Client) -> Result<(), Failure> {
        let exported = snapshot::export(self.context, self.one.number, control).await?;
        self.context.metrics.active.set(1);
        let mut sink = self.sink().await?;
        Box::pin(snapshot::run(self.context, exported, control, &mut sink)).await
    }

    /// Takes the slot: from here on no other replica can.
    async fn take_slot(&self) -> Result<ReplicationClient, Failure> {
        let config = slot::replication(&self.context.config, self.one.number)?;
        let take = async {
            let mut source =
                ReplicationClient::connect(config).await.map_err(slot::failure("take the slot"))?;
            source.wait_started().await.map_err(slot::failure("take the slot"))?;
            Ok(source)
        };
        self.context.answered("take the slot", take).await
    }

    /// Fences the predecessor. Only the holder of a slot may call it.
    async fn sink(&self) -> Result<Sink, Failure> {
        let started =
            self.context.patiently(Sink::start(&self.context.config, &self.context.metrics)).await?;
        started.map_err(Failure::Kafka)
    }
}

//! Tables `devices`, `sensor_thresholds` and `silences` → topics `iot-device-updates`,
//! `iot-threshold-updates` and `iot-silence-updates`, from the WAL.
//!
//! In:         publication `fieldline_changes`, through one permanent replication slot (`CDC_SLOT`).
//! Out:        one Debezium-style envelope per row change, a tombstone after a delete; the only writer of
//!             the topics.
//! Guarantee:  every committed change at least once, in commit order; a transaction of the database becomes
//!             visible whole (up to [`sink::RECORDS_MAX`] records), and a former owner of the slot cannot
//!             write any more.
//! On failure: database or Kafka away → nothing is confirmed, retry, not ready. Slot taken → wait, ready.
//!             Slot lost or made anew → new snapshot, which also finds rows deleted meanwhile. Slot that does
//!             not move → not ready, then not live. A change that cannot be read → stop.
//!
//! # Why nothing is lost and nothing is reordered
//!
//! Changes go into Kafka transactions of one transactional id per slot. The slot's LSN is confirmed only when
//! the Kafka transaction is committed that holds the *last* change of a database transaction, because the
//! changes of one share its LSN. After a crash the server sends everything after the confirmed LSN again:
//! consumers see those changes a second time, in the same order, ending in the same state.
//!
//! The slot says who may write, the transactional id enforces it: a replica takes the slot first, then calls
//! `init_transactions`, which aborts what its predecessor left open and refuses it from then on. Without
//! that, a predecessor that lost its database connection but not its queue could put an old row after a newer
//! one.
//!
//! # Why a crash during the first snapshot leaves no hole
//!
//! *The permanent slot exists if and only if a snapshot has been completed.* The snapshot is read through a
//! temporary slot, which PostgreSQL drops with its connection. When every row is committed in Kafka, the
//! temporary slot is copied to the permanent one, at the same LSN. A crash before the copy leaves no slot, so
//! the next start begins again; a crash after it finds the slot and streams on from the snapshot's own LSN.
//! The temporary slot's fixed name also keeps two replicas from taking a snapshot at once. A slot that the
//! server has invalidated counts as no slot, and so does one that does not continue what the topics hold:
//! somebody made it anew, or the database is another one (see `mark`).
//!
//! A new snapshot compares the keys that the topic holds with the keys that the table holds, and writes a
//! delete and a tombstone for each that is gone: what was deleted while there was no slot.
//!
//! # Standby
//!
//! A replica that waits for the slot is ready: it can do its work, and a rolling update must not wait for two
//! holders.

mod blocking;
mod config;
mod context;
mod failure;
mod lag;
mod mark;
mod metrics;
mod session;
mod slot;
mod snapshot;
mod stream;
mod topic;
mod watch;

pub mod envelope;
pub mod pgoutput;
pub mod sink;
pub mod values;

pub use config::Config;

use anyhow::Context as _;
use chassis::Chassis;
use chassis::retry::Supervisor;
use context::Context;
use failure::Failure;
use metrics::Metrics;
use watch::Watch;

/// Captures changes until the shutdown.
///
/// # Errors
/// The settings, the schema version, the slot or a change cannot be used (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let watch = Watch::new(config.clone(), chassis.clone(), metrics.clone());
    let context = Context::new(config, chassis, metrics)?;
    tokio::select! {
        ended = supervise(&context) => ended,
        never = watch.run() => match never {},
    }
}

/// Lists the names of the service's metrics, which dashboards and documents are held against.
pub fn metric_names() -> Vec<String> {
    Metrics::names()
}

async fn supervise(context: &Context) -> anyhow::Result<()> {
    let shutdown = &context.chassis.shutdown;
    let mut supervisor =
        Supervisor::new("session ended; beginning again").counting(&context.metrics.retries).until(shutdown);
    match supervisor.run(Failure::disposition, |one| session::run(context, one)).await {
        Err(Failure::Stop(error)) => Err(error),
        // Changes that are not confirmed come again after the next start.
        Err(_) if shutdown.is_cancelled() => Ok(()),
        ended => ended.context("capture changes"),
    }
}

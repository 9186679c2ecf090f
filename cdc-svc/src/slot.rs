//! The replication slot: what state it is in, how to connect to it, how it is made.

use crate::Config;
use crate::session::{Failure, database, stop};
use pgwire_replication::{PgWireError, ReplicationConfig, TlsConfig};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

/// What the slot streams; made by migration V2.
pub(crate) const PUBLICATION: &str = "fieldline_changes";
/// The plugin that decodes the WAL.
const PLUGIN: &str = "pgoutput";
/// The server ends a session that has been silent for so long, and frees the slot for a standby.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);
/// The server asks after half its patience; a stream silent for longer than all of it is dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A confirmed LSN reaches the server within this time. Short, so that a restart has little to repeat.
const CONFIRM_WITHIN: Duration = Duration::from_millis(100);
/// Events read ahead of the loop; each is one row change.
const EVENTS_AHEAD_MAX: usize = 1_024;
/// Largest message of the server. A row that is larger could not become a Kafka record by far.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Says what state the slot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There is none: no snapshot was completed.
    Absent,
    /// It is there and nobody uses it.
    Free,
    /// Another session uses it.
    Taken,
    /// The server has removed WAL that it needs.
    Invalid,
}

/// Looks at the slot.
pub(crate) async fn state(control: &Client, slot: &str) -> Result<State, Failure> {
    let sql = "SELECT active, coalesce(plugin, ''), coalesce(database = current_database(), false), \
               coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_name = $1";
    let row = control.query_opt(sql, &[&slot]).await.map_err(database("look at the slot"))?;
    let Some(row) = row else { return Ok(State::Absent) };
    let (active, plugin, ours, wal): (bool, String, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if plugin != PLUGIN || !ours {
        return Err(Failure::Stop(anyhow::anyhow!(
            "slot {slot} belongs to another database or plugin; set CDC_SLOT to a name of its own"
        )));
    }
    Ok(match (wal.as_str(), active) {
        ("lost", _) => State::Invalid,
        (_, true) => State::Taken,
        (_, false) => State::Free,
    })
}

/// Drops the slot.
pub(crate) async fn drop_slot(control: &Client, slot: &str) -> Result<(), Failure> {
    let dropped = control.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
    dropped.map(drop).map_err(database("drop the lost slot"))
}

/// Names the temporary slot of a snapshot.
pub(crate) fn temporary(slot: &str) -> String {
    format!("{slot}_snapshot")
}

/// Makes the permanent slot, at the LSN of the snapshot's temporary one. It is durable when this returns.
pub(crate) async fn make_permanent(control: &Client, slot: &str) -> Result<(), Failure> {
    let sql = "SELECT pg_copy_logical_replication_slot($1, $2, false)";
    let copied = control.execute(sql, &[&temporary(slot), &slot]).await;
    copied.map(drop).map_err(database("make the slot permanent"))
}

/// Returns the settings of the replication connection; `attempt` chooses among several hosts.
pub(crate) fn replication(config: &Config, attempt: u32) -> Result<ReplicationConfig, Failure> {
    let server = config.postgres.config().map_err(Failure::Stop)?;
    let hosts = server.get_hosts();
    let index = usize::try_from(attempt).unwrap_or(0) % hosts.len().max(1);
    let host = match hosts.get(index) {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
        None => "127.0.0.1".to_owned(),
    };
    // One port may stand for all hosts.
    let port = server.get_ports().get(index).or(server.get_ports().first()).copied().unwrap_or(5432);
    let password = std::str::from_utf8(server.get_password().unwrap_or_default());
    let tls = match config.postgres.ca() {
        Some(ca) => TlsConfig::verify_full(Some(ca.clone())),
        None => TlsConfig::disabled(),
    };
    // Values must look the same on every server, and a dead session must free the slot soon.
    let options = format!(
        "{} -c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1 -c wal_sender_timeout={} \
         -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2",
        server.get_options().unwrap_or_default(),
        SERVER_PATIENCE.as_millis(),
    );
    let user = server.get_user().unwrap_or("postgres");
    let replication = ReplicationConfig::new(
        host,
        user,
        password.map_err(stop("read the database password"))?,
        server.get_dbname().unwrap_or(user),
        &config.slot,
        PUBLICATION,
    );
    Ok(replication
        .with_port(port)
        .with_tls(tls)
        .with_options(options)
        .with_application_name("fieldline-cdc")
        .with_status_interval(CONFIRM_WITHIN)
        // Only the server asks, so that its silence means something.
        .with_wakeup_interval(SILENCE_MAX * 2)
        .with_buffer_size(EVENTS_AHEAD_MAX)
        .with_max_message_size(MESSAGE_BYTES_MAX))
}

/// Tells a slot that is in use from a database that is away.
pub(crate) fn failure(step: &'static str) -> impl FnOnce(PgWireError) -> Failure {
    move |error| match &error {
        // object_in_use: active for another session. duplicate_object: another replica takes the snapshot.
        PgWireError::Server(text) if text.contains("SQLSTATE 55006") || text.contains("SQLSTATE 42710") => {
            Failure::Taken
        }
        _ => database(step)(error),
    }
}

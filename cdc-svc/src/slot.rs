//! The replication slot: what state it is in, how to connect to it, how it is made.

use crate::Config;
use crate::envelope::TABLES;
use crate::failure::{Failure, database, stop};
use crate::mark::{Found, Wal};
use anyhow::Context;
use pgwire_replication::{PgWireError, ReplicationConfig, TlsConfig};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

/// What the slot streams; made by migration V2.
pub(crate) const PUBLICATION: &str = "fieldline_changes";
/// The user, and its database, where the settings name none.
const SUPERUSER: &str = "postgres";
/// The plugin that decodes the WAL.
const PLUGIN: &str = "pgoutput";
/// Silence after which the server ends a session, and frees the slot for a standby.
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

/// Says whether a replica takes the snapshot from which the slot will be made.
pub(crate) async fn has_snapshot(control: &Client, slot: &str) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    let row = control.query_one(sql, &[&temporary(slot)]).await;
    Ok(row.map_err(database("look at the snapshot's slot"))?.get(0))
}

/// Checks that the publication holds every table: of one that it lacks, no change would ever come, without an
/// error.
pub(crate) async fn check_publication(control: &Client) -> Result<(), Failure> {
    let sql = "SELECT tablename::text FROM pg_publication_tables WHERE pubname = $1";
    let rows = control.query(sql, &[&PUBLICATION]).await.map_err(database("look at the publication"))?;
    let held: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    match TABLES.iter().find(|table| !held.contains(&table.name)) {
        None => Ok(()),
        Some(table) => Err(Failure::Stop(anyhow::anyhow!(
            "the publication lacks a table: run ALTER PUBLICATION {PUBLICATION} ADD TABLE {}",
            table.name
        ))),
    }
}

/// Says how far the slot is, as the server tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// End of the WAL, in bytes from its beginning.
    pub(crate) wal: u64,
    /// What the slot has confirmed; none when there is no slot.
    pub(crate) confirmed: Option<u64>,
    /// Bytes of WAL that the server keeps for it.
    pub(crate) retained: u64,
    /// Process of the server that serves whoever holds it.
    pub(crate) holder: Option<i32>,
}

/// Looks at how far the slot is.
pub(crate) async fn position(client: &Client, slot: &str) -> anyhow::Result<Position> {
    let sql = "SELECT (now.wal - '0/0')::int8, (confirmed_flush_lsn - '0/0')::int8, \
               coalesce(now.wal - restart_lsn, 0)::int8, active_pid \
               FROM (SELECT pg_current_wal_lsn() AS wal) now LEFT JOIN pg_replication_slots ON slot_name = $1";
    let row = client.query_one(sql, &[&slot]).await.context("look at the slot")?;
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Position {
        wal: bytes(row.get(0)),
        confirmed: row.get::<_, Option<i64>>(1).map(bytes),
        retained: bytes(row.get(2)),
        holder: row.get(3),
    })
}

/// Looks at the WAL, and at how far the slot is in it. A slot that is gone is as far as can be.
pub(crate) async fn found(control: &Client, slot: &str) -> Result<Found, Failure> {
    // The control file learns of a new timeline only at a checkpoint; the name of a WAL file begins with it.
    let sql = "SELECT system_identifier, left(pg_walfile_name(now.wal), 8), \
               (confirmed_flush_lsn - '0/0')::int8, (now.wal - '0/0')::int8 \
               FROM pg_control_system(), (SELECT pg_current_wal_lsn() AS wal) now \
               LEFT JOIN pg_replication_slots ON slot_name = $1";
    let row = control.query_one(sql, &[&slot]).await.map_err(database("look at the WAL"))?;
    let timeline = u32::from_str_radix(row.get(1), 16).map_err(database("read the timeline"))?;
    Ok(Found {
        // 64 bits that the server shows with a sign.
        wal: Wal { system: row.get::<_, i64>(0).cast_unsigned(), timeline },
        confirmed: row.get::<_, Option<i64>>(2).map_or(u64::MAX, i64::cast_unsigned),
        end: row.get::<_, i64>(3).cast_unsigned(),
    })
}

/// Drops the slot.
pub(crate) async fn drop_slot(control: &Client, slot: &str) -> Result<(), Failure> {
    let dropped = control.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
    dropped.map(drop).map_err(database("drop the slot"))
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

/// Returns the name of the database that the settings connect to.
pub(crate) fn database_of(server: &tokio_postgres::Config) -> &str {
    server.get_dbname().or(server.get_user()).unwrap_or(SUPERUSER)
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
    let user = server.get_user().unwrap_or(SUPERUSER);
    let replication = ReplicationConfig::new(
        host,
        user,
        password.map_err(stop("read the database password"))?,
        database_of(&server),
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
        PgWireError::Server(text) => match state_in(text) {
            // Active for another session; or another replica takes the snapshot.
            Some(SqlState::OBJECT_IN_USE | SqlState::DUPLICATE_OBJECT) => Failure::Taken,
            _ => database(step)(error),
        },
        // The library's task has panicked.
        PgWireError::Task(_) => stop(step)(error),
        _ => database(step)(error),
    }
}

/// Returns the SQLSTATE of an error of the server, of which the library keeps the text alone, with the code
/// at its end.
fn state_in(text: &str) -> Option<SqlState> {
    let (_, code) = text.rsplit_once("(SQLSTATE ")?;
    Some(SqlState::from_code(code.strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_that_another_replica_has_is_told_by_its_sqlstate_alone() {
        let of = |text: &str| failure("take the slot")(PgWireError::Server(text.to_owned()));
        assert!(matches!(of("replication slot \"s\" is active for PID 7 (SQLSTATE 55006)"), Failure::Taken));
        assert!(matches!(of("replication slot \"s\" already exists (SQLSTATE 42710)"), Failure::Taken));
        assert!(matches!(of("slot named SQLSTATE 55006 is lost (SQLSTATE 55000)"), Failure::Database(_)));
        assert!(matches!(of("no state at all"), Failure::Database(_)));
    }
}

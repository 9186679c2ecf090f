//! A database for the services: its schema, and one login role per service with no more rights than its work
//! needs.

mod server;

pub use server::Server;

use crate::files;
use crate::services::Service;
use crate::state::State;
use anyhow::{Context as _, Result, bail, ensure};
use schema::migrations::{self, Dialect};
use tokio_postgres::Client;

/// Name of the local installation's database.
pub const NAME: &str = "fieldline";

/// Rights on the tables of the schema, for roles named after their services.
const GRANTS: &str = include_str!("database/grants.sql");
/// Rights on the parts that only one dialect has.
const GRANTS_POSTGRES: &str = include_str!("database/grants-postgres.sql");
const GRANTS_TIMESCALE: &str = include_str!("database/grants-timescale.sql");
const GRANTS_DISTRIBUTED: &str = include_str!("database/grants-distributed.sql");

/// Makes the database, its schema, the roles and their rights, as far as they are not there; passwords are
/// kept in the state folder. A new database gets the wanted dialect or, without one, what the server offers.
///
/// # Errors
/// The server refuses a step, or a password cannot be kept.
pub async fn prepare(state: &State, server: &Server, wanted: Option<Dialect>) -> Result<Dialect> {
    let admin = server.connect().await?;
    let there = admin.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&NAME]).await?;
    if there.is_none() {
        admin.batch_execute(&format!("CREATE DATABASE {NAME}")).await.context("create the database")?;
    }
    let mut client = server.connect_to(NAME).await?;
    let dialect = migrate(&mut client, wanted).await?;
    // A statement that fails would be logged with its password.
    client.batch_execute("SET log_min_error_statement = panic").await?;
    for service in Service::ALL.into_iter().filter(|service| service.has_database()) {
        let password = files::secret_or_new(&state.path(&format!("secrets/{}.password", service.name)))?;
        let role = service.role();
        make_role(&client, &role, &password).await.with_context(|| format!("make the role {role}"))?;
        let url = server.url_of(&role, &password, NAME);
        files::write(&url_file(state, service.name), url.as_bytes(), files::Readers::Owner)?;
    }
    client.batch_execute("ALTER ROLE cdc_svc REPLICATION").await.context("let cdc-svc read the WAL")?;
    grant(&client, dialect).await?;
    Ok(dialect)
}

/// Gives the services' roles their rights, and nothing else; safe to run again. The client's user owns the
/// tables.
///
/// # Errors
/// A role is missing, cdc-svc's may not read the WAL, or the server refuses.
pub async fn grant(client: &Client, dialect: Dialect) -> Result<()> {
    for service in Service::ALL.into_iter().filter(|service| service.has_database()) {
        let role = service.role();
        let look = "SELECT rolreplication FROM pg_roles WHERE rolname = $1";
        let Some(row) = client.query_opt(look, &[&role]).await? else {
            bail!("there is no role {role}: create it with LOGIN and a password, then run this again");
        };
        // An owner of tables may not hand this on; whoever makes the role can.
        ensure!(
            service.name != Service::CDC.name || row.get::<_, bool>(0),
            "the role {role} may not read the WAL: ALTER ROLE {role} REPLICATION"
        );
    }
    let own = match dialect {
        Dialect::Postgres => GRANTS_POSTGRES,
        Dialect::Timescale => GRANTS_TIMESCALE,
        Dialect::Distributed => GRANTS_DISTRIBUTED,
    };
    for rights in [GRANTS, own] {
        client.batch_execute(rights).await.context("grant the services their rights")?;
    }
    Ok(())
}

/// Names the file with a service's connection URL (`DATABASE_URL_FILE`).
#[must_use]
pub fn url_file(state: &State, service: &str) -> std::path::PathBuf {
    state.path(&format!("secrets/{service}.url"))
}

/// Brings the schema to this build's version, in the dialect that the database has. A new database gets the
/// wanted dialect or, without one, what its server offers.
///
/// # Errors
/// The server refuses, the database's history is not ours, or it has another dialect than the wanted one.
pub async fn migrate(client: &mut Client, wanted: Option<Dialect>) -> Result<Dialect> {
    let dialect = match (recorded(client).await?, wanted) {
        (Some(recorded), Some(wanted)) if recorded != wanted => {
            bail!("the database has the dialect {}, which cannot be changed", recorded.as_str())
        }
        (Some(recorded), _) => recorded,
        (None, Some(wanted)) => wanted,
        (None, None) => offered(client).await?,
    };
    let migrations = migrations::of(dialect);
    match dialect {
        Dialect::Distributed => {
            chassis::postgres::migrate_without_lock(client, &migrations).await?;
            distribute(client).await.context("distribute the tables over the nodes of Citus")?;
        }
        Dialect::Postgres | Dialect::Timescale => chassis::postgres::migrate(client, &migrations).await?,
    }
    Ok(dialect)
}

/// Reads the dialect of a database that was migrated before.
async fn recorded(client: &Client) -> Result<Option<Dialect>> {
    let there = client.query_one("SELECT to_regclass('storage_contract') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let name: String = client.query_one("SELECT dialect FROM storage_contract", &[]).await?.get(0);
    let dialect = Dialect::from_name(&name);
    Ok(Some(dialect.with_context(|| format!("the database has the unknown dialect {name}"))?))
}

/// Tables that Citus places by sensor; the first one decides where, so that a sensor's rows of all three live
/// together.
const PLACED_BY_SENSOR: [&str; 3] =
    ["readings_ingestion", "sensor_latest", "sensor_reading_hourly_aggregates"];

/// Statements of the common migrations that portable SQL lacks.
const PUBLICATION: &str = "
    ALTER TABLE devices REPLICA IDENTITY FULL;
    ALTER TABLE sensor_thresholds REPLICA IDENTITY FULL;
    ALTER TABLE silences REPLICA IDENTITY FULL;
    CREATE PUBLICATION fieldline_changes FOR TABLE devices, sensor_thresholds, silences";

/// Spreads the tables of readings over the nodes where the database has Citus, as far as they are not spread
/// yet. Other servers of the dialect do so by themselves.
async fn distribute(client: &mut Client) -> Result<()> {
    if !has_extension(client, "citus").await? {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    // Of two migrators the second finds what the first has done.
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('distribute', 0))", &[]).await?;
    let is_placed = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = $1::text::regclass)";
    for table in PLACED_BY_SENSOR {
        if transaction.query_one(is_placed, &[&table]).await?.get(0) {
            continue;
        }
        let beside = if table == PLACED_BY_SENSOR[0] { "none" } else { PLACED_BY_SENSOR[0] };
        let place = "SELECT create_distributed_table($1::text::regclass, 'sensor_id', colocate_with => $2)";
        transaction.execute(place, &[&table, &beside]).await?;
    }
    // The other two tables stay on the coordinator, which has PostgreSQL's own change capture.
    let published = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = 'fieldline_changes')";
    if !transaction.query_one(published, &[]).await?.get::<_, bool>(0) {
        transaction.batch_execute(PUBLICATION).await?;
    }
    Ok(transaction.commit().await?)
}

async fn has_extension(client: &Client, name: &str) -> Result<bool> {
    let there = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = $1)";
    Ok(client.query_one(there, &[&name]).await?.get(0))
}

/// Finds the dialect that suits the server best.
///
/// # Errors
/// The server does not answer, or its TimescaleDB may not be used by us.
pub async fn offered(client: &Client) -> Result<Dialect> {
    let version: String = client.query_one("SELECT version()", &[]).await?.get(0);
    // An extension that is only installed is not in use: Citus is made in each database, TimescaleDB is
    // loaded at the server's start.
    if shards(&version) || has_extension(client, "citus").await? {
        return Ok(Dialect::Distributed);
    }
    let loaded = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.disable_load')";
    if client.query_one(loaded, &[]).await?.get(0) && has_continuous_aggregates(client).await? {
        return Ok(Dialect::Timescale);
    }
    Ok(Dialect::Postgres)
}

/// Says whether the loaded TimescaleDB is more than its Apache-licensed part. A database that has no
/// extension yet does not know, so the extension is made in a transaction that is rolled back.
async fn has_continuous_aggregates(client: &Client) -> Result<bool> {
    let made = client.batch_execute("BEGIN; CREATE EXTENSION IF NOT EXISTS timescaledb").await;
    let licence = match made {
        Ok(()) => client.query_one("SELECT current_setting('timescaledb.license', true)", &[]).await,
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await?;
    // To choose another dialect here would be for good, since a database keeps its first one.
    let licence = licence.context("make the extension timescaledb, which is loaded; or name a dialect")?;
    Ok(licence.get::<_, Option<&str>>(0) == Some("timescale"))
}

/// Says whether the server that names its version so is one that only speaks like PostgreSQL.
fn shards(version: &str) -> bool {
    version.starts_with("CockroachDB") || version.contains("-YB-")
}

async fn make_role(client: &Client, role: &str, password: &str) -> Result<()> {
    let there = client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await?;
    let verb = if there.is_some() { "ALTER" } else { "CREATE" };
    // Names and passwords are letters, digits and underscores: nothing to quote.
    client.batch_execute(&format!("{verb} ROLE {role} LOGIN PASSWORD '{password}'")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_shard_are_known_by_their_version() {
        assert!(shards("CockroachDB CCL v24.3.1 (x86_64-pc-linux-gnu, built 2024/12/12 18:21:43, go1.22.8)"));
        assert!(shards("PostgreSQL 15.2-YB-2.25.1.0-b0 on x86_64-pc-linux-gnu, compiled by clang"));
        assert!(!shards("PostgreSQL 15.18 (Debian 15.18-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc"));
    }
}

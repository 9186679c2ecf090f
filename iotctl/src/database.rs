//! A database for the services: its schema, and one login role per service with no more rights than its work needs.

use anyhow::{Context as _, Result};
use chassis::postgres::Settings;
use schema::migrations::{self, Dialect};
use tokio_postgres::Client;

use crate::files;
use crate::state::State;

/// Name of the local installation's database.
pub const NAME: &str = "fieldline";

/// Rights on the tables of the schema, for roles named after their services.
const GRANTS: &str = include_str!("database/grants.sql");
/// The same, for tables that only one dialect has.
const GRANTS_POSTGRES: &str = include_str!("database/grants-postgres.sql");

/// Services that use the database, each by a role of its name with `_` for `-`.
pub const SERVICES: [&str; 5] = ["command-svc", "device-svc", "threshold-svc", "cdc-svc", "query-svc"];

/// Makes the database, its schema, the roles and their rights, as far as they are not there; passwords are kept in the state folder.
///
/// # Errors
/// The server refuses a step, or a password cannot be kept.
pub async fn prepare(state: &State, admin_url: impl Fn(&str) -> String, port: u16) -> Result<Dialect> {
    let admin = Settings::local(admin_url("postgres")).connect().await?;
    let there = admin.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&NAME]).await?;
    if there.is_none() {
        admin.batch_execute(&format!("CREATE DATABASE {NAME}")).await.context("create the database")?;
    }
    let mut client = Settings::local(admin_url(NAME)).connect().await?;
    let dialect = migrate(&mut client).await?;
    // A statement that fails would be logged with its password.
    client.batch_execute("SET log_min_error_statement = panic").await?;
    for service in SERVICES {
        let password = files::secret_or_new(&state.path(&format!("secrets/{service}.password")))?;
        let role = role_of(service);
        make_role(&client, &role, &password).await.with_context(|| format!("make the role {role}"))?;
        let url = format!("postgres://{role}:{password}@127.0.0.1:{port}/{NAME}");
        files::write(&url_file(state, service), url.as_bytes(), files::Readers::Owner)?;
    }
    client.batch_execute(GRANTS).await.context("grant the services their rights")?;
    if dialect == Dialect::Postgres {
        client.batch_execute(GRANTS_POSTGRES).await.context("grant the services their rights")?;
    }
    Ok(dialect)
}

/// Names the file with a service's connection URL (`DATABASE_URL_FILE`).
#[must_use]
pub fn url_file(state: &State, service: &str) -> std::path::PathBuf {
    state.path(&format!("secrets/{service}.url"))
}

/// Brings the schema to this build's version, in the dialect that the database has or, when it is new, that the server offers.
///
/// # Errors
/// The server refuses, or the database's history is not ours.
pub async fn migrate(client: &mut Client) -> Result<Dialect> {
    let dialect = dialect(client).await?;
    chassis::postgres::migrate(client, &migrations::of(dialect)).await?;
    Ok(dialect)
}

async fn dialect(client: &Client) -> Result<Dialect> {
    let there = client.query_one("SELECT to_regclass('storage_contract') IS NOT NULL", &[]).await?;
    if there.get(0) {
        let name: String = client.query_one("SELECT dialect FROM storage_contract", &[]).await?.get(0);
        return Dialect::from_name(&name)
            .with_context(|| format!("the database has the unknown dialect {name}"));
    }
    // The extension must be loaded at the server's start, and its Apache-licensed build has no continuous aggregates.
    let offered = client
        .query_one(
            "SELECT current_setting('timescaledb.license', true) IS NOT DISTINCT FROM 'timescale'",
            &[],
        )
        .await?;
    Ok(if offered.get(0) { Dialect::Timescale } else { Dialect::Postgres })
}

async fn make_role(client: &Client, role: &str, password: &str) -> Result<()> {
    let there = client.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await?;
    let verb = if there.is_some() { "ALTER" } else { "CREATE" };
    // Names and passwords are letters, digits and underscores: nothing to quote.
    client.batch_execute(&format!("{verb} ROLE {role} LOGIN PASSWORD '{password}'")).await?;
    Ok(())
}

fn role_of(service: &str) -> String {
    service.replace('-', "_")
}

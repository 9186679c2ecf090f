//! `iotctl up`.

use super::migrate::StorageDialect;
use crate::database;
use crate::progress::Progress;
use crate::services::Service;
use crate::state::{Ports, State};
use crate::up;
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct UpOptions {
    /// Also runs this optional service; several by repeating the option.
    #[arg(long = "with", value_name = "SERVICE", value_parser = parse_optional_service)]
    with: Vec<&'static Service>,
    /// File with an administrator's URL of a PostgreSQL server to use instead of starting one; `clean`
    /// leaves its database.
    #[arg(long)]
    database_url_file: Option<PathBuf>,
    /// CA of that server's certificate; required unless it is on this host.
    #[arg(long, requires = "database_url_file")]
    database_ca_file: Option<PathBuf>,
    /// The SQL to use for a new database; a database keeps what it began with.
    #[arg(long, value_enum, env = "STORAGE_DIALECT", default_value_t = StorageDialect::Auto)]
    dialect: StorageDialect,
}

/// Runs the platform until it is told to stop.
pub(super) async fn run(state: &State, ports: Ports, options: UpOptions, progress: &Progress) -> Result<()> {
    let UpOptions { with, database_url_file, database_ca_file, dialect } = options;
    let database = database_url_file.map(|file| given_server(&file, database_ca_file)).transpose()?;
    up::up(state, ports, &up::Options { with, database, dialect: dialect.wanted() }, progress).await
}

/// Reads the server that a file names.
fn given_server(url_file: &Path, ca: Option<PathBuf>) -> Result<database::Server> {
    let url = std::fs::read_to_string(url_file).with_context(|| format!("read {}", url_file.display()))?;
    // Services run in the state folder.
    let ca = ca.map(std::path::absolute).transpose().context("find the CA of the database")?;
    database::Server::new(&url, ca)
}

/// Finds an optional service by its name.
fn parse_optional_service(name: &str) -> Result<&'static Service> {
    let names = Service::optional().map(|service| service.name).collect::<Vec<_>>().join(", ");
    let found = Service::optional().find(|service| service.name == name);
    found.with_context(|| format!("expected one of: {names}"))
}

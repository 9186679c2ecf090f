//! `iotctl migrate`.

use super::from_env;
use crate::database;
use anyhow::Result;
use clap::{Args, ValueEnum};
use schema::migrations::Dialect;

#[derive(Debug, Args)]
pub(super) struct MigrateOptions {
    /// The SQL to use for a new database; a database keeps what it began with.
    #[arg(long, value_enum, env = "STORAGE_DIALECT", default_value_t = StorageDialect::Auto)]
    dialect: StorageDialect,
    /// Then gives the services' roles (`command_svc`, …), which must be there, their rights and no others.
    #[arg(long)]
    grants: bool,
}

/// The SQL that a database is migrated with.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StorageDialect {
    /// What the server offers.
    Auto,
    /// TimescaleDB: hypertable, compression, continuous aggregate.
    Timescale,
    /// Plain PostgreSQL: day partitions.
    Postgres,
    /// Portable SQL that shards by sensor: YugabyteDB, CockroachDB, Citus.
    Distributed,
}

impl StorageDialect {
    pub(super) fn wanted(self) -> Option<Dialect> {
        match self {
            Self::Auto => None,
            Self::Timescale => Some(Dialect::Timescale),
            Self::Postgres => Some(Dialect::Postgres),
            Self::Distributed => Some(Dialect::Distributed),
        }
    }
}

/// Brings the database of the environment to this release's schema.
pub(super) async fn run(options: &MigrateOptions) -> Result<()> {
    let mut client = from_env(chassis::postgres::Settings::from_env)?.connect().await?;
    let dialect = database::migrate(&mut client, options.dialect.wanted()).await?;
    if options.grants {
        database::grant(&client, dialect).await?;
    }
    println!("dialect {}", dialect.as_str());
    Ok(())
}

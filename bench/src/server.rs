//! The PostgreSQL server that every contender writes to, each into a database of its own with the same
//! schema.

use crate::cpu;
use crate::readings::Workload;
use anyhow::{Context as _, Result, ensure};
use chassis::postgres::Settings;
use schema::migrations::Dialect;
use std::ops::Range;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::config::Host;

/// For all contenders alike: checkpoints come between the runs and not within one, so that each pays for its
/// own writes. Files of the WAL are kept, so that a run does not pay for making what the run before found
/// there.
const TUNING: [&str; 3] = ["max_wal_size = '8GB'", "min_wal_size = '4GB'", "checkpoint_timeout = '30min'"];

/// A running server.
#[derive(Debug)]
pub struct Server {
    url: String,
    postmaster: u32,
}

/// A database with this release's schema.
#[derive(Debug)]
pub struct Database {
    /// Its URL. A secret.
    pub url: String,
    name: String,
}

/// Where a database is, for clients that take no URL of ours.
#[derive(Debug)]
pub struct Place {
    /// As JDBC wants it, without user and password.
    pub jdbc_url: String,
    /// The user.
    pub user: String,
    /// A secret.
    pub password: String,
}

impl Server {
    /// Finds the server's process and sets what all contenders share.
    ///
    /// # Errors
    /// It cannot be reached, runs on another machine, or does not wait for the disk.
    pub async fn open(url: &str) -> Result<Self> {
        let admin = Settings::local(url).connect().await?;
        let fsync: String = admin.query_one("SHOW fsync", &[]).await?.get(0);
        ensure!(
            fsync == "on",
            "PostgreSQL does not wait for the disk: start it by `iotctl servers run --durable`"
        );
        for setting in TUNING {
            admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.context("tune PostgreSQL")?;
        }
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        let session: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let postmaster = cpu::parent_of(session.unsigned_abs()).context("find the postmaster")?;
        Ok(Self { url: url.to_owned(), postmaster })
    }

    /// Returns the CPU time that the server has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::of_family(self.postmaster)
    }

    /// Returns a setting, for the table's head.
    ///
    /// # Errors
    /// It does not answer, or there is no such setting.
    pub async fn setting(&self, name: &str) -> Result<String> {
        let admin = Settings::local(&self.url).connect().await?;
        Ok(admin.query_one("SELECT current_setting($1)", &[&name]).await?.get(0))
    }

    /// Makes a database with partitions for these rows, and leaves no dirty page of the run before.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn create(&self, label: &str, workload: &Workload, rows: Range<i64>) -> Result<Database> {
        let admin = Settings::local(&self.url).connect().await?;
        let name = format!("bench_{}", label.replace('-', "_"));
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.context("create a database")?;
        let (base, _) = self.url.rsplit_once('/').context("the database URL has no /database")?;
        let database = Database { url: format!("{base}/{name}"), name };
        let mut client = database.connect().await?;
        if iotctl::database::migrate(&mut client, None).await? == Dialect::Postgres {
            let (first, last) = (workload.row(rows.start).reading_at, workload.row(rows.end).reading_at);
            let mut day = OffsetDateTime::from(first).date();
            while day <= OffsetDateTime::from(last).date() {
                client.execute("SELECT ensure_reading_partition($1)", &[&day]).await?;
                day = day.next_day().context("the workload ends before the year 9999")?;
            }
        }
        self.checkpoint().await?;
        Ok(database)
    }

    /// Writes every dirty page now, so that the next run does not pay for it.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn checkpoint(&self) -> Result<()> {
        let admin = Settings::local(&self.url).connect().await?;
        admin.batch_execute("CHECKPOINT").await.context("write a checkpoint")
    }

    /// Forgets a database and everything in it.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn forget(&self, database: Database) -> Result<()> {
        let admin = Settings::local(&self.url).connect().await?;
        let name = database.name;
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.context("drop a database")
    }
}

impl Database {
    /// Opens a connection.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn connect(&self) -> Result<Client> {
        Settings::local(&self.url).connect().await
    }

    /// Checks that every row of the run is there, and in the hourly read model too when the contender keeps
    /// it.
    ///
    /// # Errors
    /// The count differs: then the contender's figure means nothing.
    pub async fn ensure_rows(&self, rows: i64, has_hours: bool) -> Result<()> {
        let client = self.connect().await?;
        let stored: i64 = client.query_one("SELECT count(*) FROM readings_ingestion", &[]).await?.get(0);
        ensure!(stored == rows, "{} has {stored} rows instead of {rows}", self.name);
        if has_hours {
            let sum = "SELECT coalesce(sum(count), 0)::bigint FROM sensor_reading_hourly_aggregates";
            let summed: i64 = client.query_one(sum, &[]).await?.get(0);
            ensure!(summed == rows, "the hours of {} sum up {summed} rows instead of {rows}", self.name);
        }
        Ok(())
    }

    /// Returns the parts of its URL.
    ///
    /// # Errors
    /// The URL has no host, user or password.
    pub fn place(&self) -> Result<Place> {
        let config = Settings::local(&self.url).config()?;
        let host = config.get_hosts().iter().find_map(|host| match host {
            Host::Tcp(name) => Some(name.clone()),
            Host::Unix(_) => None,
        });
        let (host, port) = (host.context("the database URL has no host")?, config.get_ports().first());
        let (port, name) = (port.copied().unwrap_or(5432), &self.name);
        let user = config.get_user().context("the database URL has no user")?.to_owned();
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
        Ok(Place { jdbc_url: format!("jdbc:postgresql://{host}:{port}/{name}"), user, password })
    }
}

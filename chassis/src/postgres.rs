//! PostgreSQL settings: pools with bounds and timeouts, TLS, migrations, and the check of the schema version.

mod select;

pub use select::{Param, Select};

use crate::admin::Latch;
use crate::config::{Env, Secret};
use anyhow::Context;
use deadpool_postgres::{ClientWrapper, Hook, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use refinery::{Migration, Runner};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

/// Timeout after which a server counts as unreachable.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Age of unacknowledged bytes from which the peer counts as gone; TCP alone would hope for a quarter of an
/// hour.
const TCP_SILENCE_MAX: Duration = Duration::from_secs(15);
/// Longest wait for a free connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Statements by which the server ends a session that falls silent: the locks of a lost client are free after
/// half a minute, and not after the two hours of TCP's own patience.
const FORGET_SILENT_CLIENTS: [&str; 2] = [
    "SET idle_in_transaction_session_timeout = '30s'",
    "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
     SET tcp_user_timeout = 30000",
];

/// Says where the database is and how many connections a service may hold.
#[derive(Clone, Debug)]
pub struct Settings {
    url: Secret,
    ca: Option<PathBuf>,
    connections_max: usize,
    statement_max: Duration,
}

impl Settings {
    /// Reads `DATABASE_…`. Without a CA only a database on this host is accepted.
    pub fn from_env(env: &mut Env) -> Self {
        env.about(
            "The file with the URL of the database, `postgres://…`. Required unless `DATABASE_URL` is given.",
        );
        let from_file = env.secret_file_optional("DATABASE_URL_FILE");
        env.about("The URL itself, where no secret is in it; it goes before the file.");
        let url = env.text_optional("DATABASE_URL").map(Secret::new).or(from_file).unwrap_or_else(|| {
            env.problem("DATABASE_URL_FILE is required");
            Secret::new("")
        });
        env.about(
            "Authorities of the database's certificate, PEM. Required unless the database is on this host.",
        );
        let ca = env.path_optional("DATABASE_CA_FILE");
        env.about("Connections that the service holds at most.");
        let connections_max = env.number_in("DATABASE_CONNECTIONS_MAX", 8, 1..=1_000);
        env.about("How long a statement may take until the server breaks it off.");
        let statement_max = env.duration_ms("DATABASE_STATEMENT_MS_MAX", 30_000, 10..=3_600_000);
        match url.expose().parse::<Config>() {
            Ok(config) if ca.is_none() && !config.get_hosts().iter().all(is_this_host) => {
                env.problem("DATABASE_CA_FILE is required unless the database is on this host");
            }
            Ok(_) => {}
            Err(_) => env.problem("DATABASE_URL must be a PostgreSQL connection URL"),
        }
        Self { url, ca, connections_max, statement_max }
    }

    /// Points at a database on this host, in plain text, as tests and tools do.
    pub fn local(url: impl Into<String>) -> Self {
        Self { url: Secret::new(url), ca: None, connections_max: 8, statement_max: Duration::from_secs(30) }
    }

    /// Sets how many connections a pool holds, as `DATABASE_CONNECTIONS_MAX` does.
    #[must_use]
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Sets how long a statement may take, as `DATABASE_STATEMENT_MS_MAX` does.
    #[must_use]
    pub fn with_statement_max(mut self, statement_max: Duration) -> Self {
        self.statement_max = statement_max;
        self
    }

    /// Returns how long a statement may take before the server ends it. A client that waits clearly longer
    /// for an answer waits for one that was lost.
    pub fn statement_max(&self) -> Duration {
        self.statement_max
    }

    /// Returns how many connections a pool holds.
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Returns the connection settings, for clients that are not ours (the replication stream).
    ///
    /// # Errors
    /// The URL is no connection URL (stop).
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config: Config = self.url.expose().parse().context("read the database URL")?;
        config.connect_timeout(CONNECT_WAIT);
        config.tcp_user_timeout(TCP_SILENCE_MAX);
        config.keepalives_idle(TCP_SILENCE_MAX);
        if self.ca.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        Ok(config)
    }

    /// Returns the CA that the database's certificate must chain to; none means plain text on this host.
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Makes a pool. It connects when it is first used, so a database that is away does not stop the start.
    ///
    /// # Errors
    /// The URL or the CA cannot be used (stop).
    pub fn pool(&self) -> anyhow::Result<Pool> {
        let mut config = self.config()?;
        let own = config.get_options().unwrap_or_default().to_owned();
        config.options(format!("{own} -c statement_timeout={}", self.statement_max.as_millis()));
        // Each host of the URL is tried in turn, and one that does not answer takes its whole wait.
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX).max(1);
        let connect_all = CONNECT_WAIT.saturating_mul(hosts.saturating_add(1));
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        #[expect(clippy::disallowed_methods, reason = "this is the one place that fixes pool settings")]
        let manager = match self.tls()? {
            Some(tls) => Manager::from_config(config, tls, recycling),
            None => Manager::from_config(config, NoTls, recycling),
        };
        Pool::builder(manager)
            .max_size(self.connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(connect_all))
            .recycle_timeout(Some(CONNECT_WAIT))
            .post_create(Hook::async_fn(|client: &mut ClientWrapper, _| {
                Box::pin(async move {
                    for setting in FORGET_SILENT_CLIENTS {
                        // A server that has no such setting keeps its own ideas.
                        let _ = client.batch_execute(setting).await;
                    }
                    Ok(())
                })
            }))
            .build()
            .context("build the connection pool")
    }

    /// Opens one connection without a statement timeout, for migrations and tools. Its task ends with the
    /// client.
    ///
    /// # Errors
    /// The database cannot be reached (retry) or refuses us (stop).
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let config = self.config()?;
        #[expect(clippy::disallowed_methods, reason = "this is the one place that opens connections")]
        let client = match self.tls()? {
            Some(tls) => {
                let (client, connection) = config.connect(tls).await.context("connect to the database")?;
                tokio::spawn(connection);
                client
            }
            None => {
                let (client, connection) = config.connect(NoTls).await.context("connect to the database")?;
                tokio::spawn(connection);
                client
            }
        };
        Ok(client)
    }

    /// Asks the server to end the statement that a connection of ours runs.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn cancel(&self, token: &CancelToken) -> anyhow::Result<()> {
        match self.tls()? {
            Some(tls) => token.cancel_query(tls).await,
            None => token.cancel_query(NoTls).await,
        }
        .context("cancel a statement")
    }

    fn tls(&self) -> anyhow::Result<Option<MakeRustlsConnect>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).context("read DATABASE_CA_FILE")? {
            roots.add(certificate.context("read DATABASE_CA_FILE")?).context("use DATABASE_CA_FILE")?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}

fn is_this_host(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

/// Key of the advisory lock that lets one migrator run at a time; the value only has to be ours.
const MIGRATION_LOCK: i64 = 0x6669_656c_646c_696e;
/// Most times that a migrator without a lock tries again after another one was faster: at most once for each
/// migration.
const OUTRUN_MAX: u32 = 100;
/// Tries that a failure gets even when the history has not grown: the other migrator may still be at work.
const OUTRUN_LOOKS_MIN: u32 = 3;

/// Runs the migrations that the database has not seen, each in a transaction of its own.
///
/// Guarantee: safe to run twice and from two places at once; a changed or missing old migration stops it.
///
/// # Errors
/// The database refuses a migration, or its history is not ours (stop).
pub async fn migrate(client: &mut Client, migrations: &[Migration]) -> anyhow::Result<()> {
    client
        .execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
        .await
        .context("wait for the migration lock")?;
    let outcome = run_migrations(client, migrations).await;
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK])
        .await
        .context("free the migration lock")?;
    outcome
}

/// Does what [`migrate`] does on a server without advisory locks.
///
/// Of two migrators that meet, one fails on a table that the other has made. It looks again and goes on from
/// there, as long as the history grows.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_without_lock(client: &mut Client, migrations: &[Migration]) -> anyhow::Result<()> {
    let mut backoff = crate::retry::Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let before = newest_migration(client).await;
        let Err(error) = run_migrations(client, migrations).await else { return Ok(()) };
        // The other one may be between its commit and ours: it gets a moment to show what it did.
        tokio::time::sleep(backoff.next_wait()).await;
        let was_outrun = newest_migration(client).await > before || backoff.failures() < OUTRUN_LOOKS_MIN;
        if !was_outrun || backoff.failures() >= OUTRUN_MAX {
            return Err(error);
        }
    }
}

async fn run_migrations(client: &mut Client, migrations: &[Migration]) -> anyhow::Result<()> {
    let report = Runner::new(migrations).run_async(client).await.context("run the migrations")?;
    for migration in report.applied_migrations() {
        tracing::info!(%migration, "applied");
    }
    Ok(())
}

/// Returns the newest applied version, or none when there is no history yet.
async fn newest_migration(client: &Client) -> Option<i32> {
    let newest = "SELECT max(version)::int4 FROM refinery_schema_history";
    client.query_one(newest, &[]).await.ok()?.get(0)
}

/// Beginning of the name of a migration after which builds made before it do not work.
const BREAKING: &str = "breaking_";

/// Says what is wrong with the schema of the database.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema lacks what this build asks for (stop).
    #[error("schema version is {found}, this build needs {needed}: run `iotctl migrate` of the same release")]
    Older {
        /// What the database has; 0 when it has none.
        found: i32,
        /// The oldest that the build works with.
        needed: i32,
    },
    /// A newer migration breaks with this build (stop).
    #[error(
        "schema version {found} breaks with this build, which knows versions up to {known}: run a newer one"
    )]
    Newer {
        /// The first version that breaks.
        found: i32,
        /// The newest that the build was made for.
        known: i32,
    },
    /// The database cannot answer (retry).
    #[error("cannot read the schema version")]
    Unavailable(#[source] anyhow::Error),
}

/// Checks that a build works with the schema of the database: one of its own versions, or a newer one that no
/// migration named [`BREAKING`] lies before.
///
/// # Errors
/// [`SchemaError`].
pub async fn check_version(client: &Client, versions: &RangeInclusive<i32>) -> Result<(), SchemaError> {
    let history = "SELECT coalesce(max(version), 0)::int4, \
                   (min(version) FILTER (WHERE version > $1 AND left(name, $2) = $3))::int4 \
                   FROM refinery_schema_history";
    let (needed, known) = (*versions.start(), *versions.end());
    let length = i32::try_from(BREAKING.len()).unwrap_or(i32::MAX);
    let (newest, breaking) = match client.query_one(history, &[&known, &length, &BREAKING]).await {
        Ok(row) => (row.get(0), row.get(1)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => (0, None),
        Err(error) => return Err(SchemaError::Unavailable(error.into())),
    };
    match breaking {
        Some(found) => Err(SchemaError::Newer { found, known }),
        None if newest < needed => Err(SchemaError::Older { found: newest, needed }),
        None => Ok(()),
    }
}

async fn check_version_by(pool: &Pool, versions: &RangeInclusive<i32>) -> Result<(), SchemaError> {
    // The pool bounds this wait itself; several hosts may have to be tried.
    let client = pool.get().await.map_err(|error| SchemaError::Unavailable(error.into()))?;
    let silent = |_| SchemaError::Unavailable(anyhow::anyhow!("no answer for {PROBE_WAIT:?}"));
    tokio::time::timeout(PROBE_WAIT, check_version(&client, versions)).await.map_err(silent)?
}

/// Waits until the database answers and checks its schema as [`check_version`] does; false when the shutdown
/// came first.
///
/// # Errors
/// [`SchemaError::Older`] and [`SchemaError::Newer`] at once (stop); a database that is away is waited for.
pub async fn wait_for_version(
    pool: &Pool,
    versions: RangeInclusive<i32>,
    shutdown: &CancellationToken,
) -> Result<bool, SchemaError> {
    let mut backoff = crate::retry::Backoff::default();
    loop {
        let Some(found) = shutdown.run_until_cancelled(check_version_by(pool, &versions)).await else {
            return Ok(false);
        };
        match found {
            Ok(()) => return Ok(true),
            Err(SchemaError::Unavailable(error)) => {
                tracing::warn!(error = format!("{error:#}"), "database is away");
            }
            Err(error) => return Err(error),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await.is_none() {
            return Ok(false);
        }
    }
}

/// Interval between health probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of a probe: without an answer the database is away, or every connection is in use.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// Keeps the latch as the database is, by a probe through the pool, until shutdown.
pub async fn watch(pool: Pool, latch: Latch, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = true;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let outcome = probe(&pool).await;
        match &outcome {
            Ok(()) => latch.open(),
            Err(error) => {
                latch.close();
                // Said once for each outage.
                if answered {
                    tracing::warn!(error = format!("{error:#}"), "database is away");
                }
            }
        }
        answered = outcome.is_ok();
    }
}

async fn probe(pool: &Pool) -> anyhow::Result<()> {
    // The pool bounds this wait itself; several hosts may have to be tried.
    let client = pool.get().await?;
    let answered = tokio::time::timeout(PROBE_WAIT, client.batch_execute("SELECT 1")).await;
    let outcome = answered.context("wait for an answer").and_then(|answer| Ok(answer?));
    if outcome.is_err() {
        // The answer may still come, or never: nobody else may wait behind it.
        drop(deadpool_postgres::Object::take(client));
    }
    outcome
}

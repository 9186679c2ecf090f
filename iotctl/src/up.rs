//! The whole platform on one machine: `iotctl up`, and `down` and `clean`, which end and forget it.
//!
//! In:         the state folder, the services' programs beside this one, a PostgreSQL server if one is given.
//! Out:        private servers, every service (the optional ones if asked for), demo devices, two thresholds,
//!             a simulator; a text that says what to try.
//! Guarantee:  what it started ends with it, in reverse order; its data stays for the next start.
//! On failure: the part that failed is named with the end of its log, and everything is stopped.

mod demo;
mod programs;
mod stack;

use crate::api::Api;
use crate::database;
use crate::files::{self, Readers};
use crate::pki::Pki;
use crate::process;
use crate::progress::Progress;
use crate::servers::{kafka, postgres};
use crate::services::Service;
use crate::state::{KAFKA_CONTROLLER_PORT, KAFKA_PORT, Lock, POSTGRES_PORT, Ports, State};
use crate::token::Signer;
use crate::topics;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use schema::migrations::Dialect;
use stack::Stack;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Names by which the local gateway is reached.
const SERVER_NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// Partitions of the local topics that scale: several, so that a key's place matters as it does elsewhere.
const PARTITIONS: i32 = 6;
/// Validity of the token that is printed.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);
/// Interval between looks at the running processes.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Longest time for a running platform to stop: every service and both servers have grace periods.
const DOWN_WITHIN: Duration = Duration::from_secs(150);

/// Everything that `up` itself writes below the state folder; services write to theirs. `clean` removes
/// nothing else.
const WRITTEN: [&str; 12] = [
    "jwt",
    "kafka",
    "kafka-jars",
    "kafka-jars.draft",
    "logs",
    "pki",
    "postgres",
    "run",
    "secrets",
    "test",
    "token",
    "up.lock",
];

/// The choices for a start.
#[derive(Debug, Default)]
pub struct Options {
    /// The optional services to run, too.
    pub with: Vec<&'static Service>,
    /// The server to keep the database on, instead of one that is started.
    pub database: Option<database::Server>,
    /// The dialect of a new database, instead of what its server offers.
    pub dialect: Option<Dialect>,
}

/// Starts everything, says what to try, and runs until Ctrl-C or SIGTERM, which stops everything.
///
/// # Errors
/// It runs already, a port is taken, or a part cannot be started; the message says which and where its log
/// is.
pub async fn up(state: &State, ports: Ports, options: &Options, progress: &Progress) -> Result<()> {
    let Some(_lock) = Lock::take(&state.path("up.lock"))? else {
        bail!("it runs already; `make down` stops it");
    };
    process::record_self(&pid_file(state))?;
    files::write(&offset_file(state), ports.offset().to_string().as_bytes(), Readers::Everyone)?;
    let mut stack = Stack::default();
    let start = Start { state, ports, options, progress };
    let outcome = tokio::select! {
        outcome = start.run(&mut stack) => outcome,
        stopped = process::told_to_stop() => stopped,
    };
    if let Err(error) = &outcome {
        // Before the servers stop, because that may take a while.
        progress.note(&format!("{error:#}"));
    }
    stack.stop(progress).await;
    let _ = std::fs::remove_file(pid_file(state));
    outcome
        .map_err(|_| anyhow::anyhow!("it did not come up; the logs are in {}", state.path("logs").display()))
}

/// Returns the ports with that offset, or without one those of the last `up`, so that a command in another
/// terminal need not be told.
///
/// # Errors
/// The offset is too large.
pub fn ports(state: &State, offset: Option<u16>) -> Result<Ports> {
    let recorded = || std::fs::read_to_string(offset_file(state)).ok()?.parse().ok();
    Ports::new(offset.or_else(recorded).unwrap_or(0))
}

/// Stops a running `up`, or what a killed one left behind.
///
/// # Errors
/// It does not stop in time.
pub async fn down(state: &State, progress: &Progress) -> Result<()> {
    let running = process::recorded(&pid_file(state));
    let stop = async {
        if let Some(pid) = running {
            kill(pid, Signal::SIGTERM).with_context(|| format!("ask process {pid} to stop"))?;
        }
        let deadline = Instant::now() + DOWN_WITHIN;
        let lock = loop {
            if let Some(lock) = Lock::take(&state.path("up.lock"))? {
                break lock;
            }
            ensure!(
                Instant::now() < deadline,
                "it does not stop; its logs are in {}",
                state.path("logs").display()
            );
            sleep(Duration::from_millis(100)).await;
        };
        let left = stack::end_leftovers(state).await?;
        drop(lock);
        Ok(match (running, left) {
            (Some(_), _) => "stopped".to_owned(),
            (None, 0) => "was not running".to_owned(),
            (None, left) => format!("ended {left} processes of a killed run"),
        })
    };
    progress.step("stop Fieldline", stop).await.map(|_| ())
}

/// Stops it and removes everything it wrote.
///
/// # Errors
/// It does not stop, or a folder cannot be removed.
pub async fn clean(state: &State, progress: &Progress) -> Result<()> {
    down(state, progress).await?;
    let folders = Service::ALL.into_iter().flat_map(|service| service.folders);
    for name in WRITTEN.iter().chain(folders) {
        remove(&state.path(name))?;
    }
    // Left alone when something else is in it.
    let _ = std::fs::remove_dir(state.path(""));
    Ok(())
}

/// A start and what it is told.
struct Start<'a> {
    state: &'a State,
    ports: Ports,
    options: &'a Options,
    progress: &'a Progress,
}

impl Start<'_> {
    /// Starts everything and says what to try; ends only with an error, when a server has ended.
    async fn run(&self, stack: &mut Stack) -> Result<()> {
        let Self { state, ports, options, progress } = *self;
        let prepare = async {
            let left = stack::end_leftovers(state).await?;
            ports.ensure_free()?;
            Ok(if left == 0 { String::new() } else { format!("ended {left} processes of a killed run") })
        };
        progress.step("check ports", prepare).await?;
        let (pki, signer) = (Pki::open_or_create(&state.pki())?, Signer::open_or_create(&state.jwt())?);
        pki.server_files(&SERVER_NAMES)?;
        let token = signer.mint("local-admin", &["admin"], TOKEN_TTL)?;
        files::write(&state.path("token"), token.as_bytes(), Readers::Owner)?;
        let database_ca = options.database.as_ref().and_then(|server| server.ca().cloned());
        let local = programs::Local { state, ports, pki: &pki, jwks: signer.jwks_file(), database_ca };
        let services = local.services(&options.with)?;
        self.start_servers(stack).await?;
        for service in &services {
            stack.start(service, state)?;
        }
        progress.step("services are ready", stack.wait_ready(ports)).await?;
        let api = Api::local(ports, token.clone())?;
        let simulator = local.simulator(&demo::SIMULATED)?;
        let proof = async {
            progress.step("devices and thresholds are registered", demo::register(&api, &pki)).await?;
            let alerts = demo::Alerts::from_now_on(&format!("127.0.0.1:{}", ports.at(KAFKA_PORT))).await?;
            stack.start(&simulator, state)?;
            demo::wait(&api, alerts, progress).await
        };
        if let Err(error) = proof.await {
            bail!("{error:#}\n{}", stack.describe(state));
        }
        for service in &options.with {
            for folder in service.folders {
                progress.note(&format!("{} writes to {}", service.name, state.path(folder).display()));
            }
        }
        // The reader may have gone; the platform stays.
        let _ = writeln!(std::io::stdout().lock(), "{}", demo::what_to_try(state, ports, &pki, &token)?);
        loop {
            sleep(WATCH_EVERY).await;
            stack.report_ended(progress)?;
        }
    }

    async fn start_servers(&self, stack: &mut Stack) -> Result<()> {
        let Self { state, ports, options, progress } = *self;
        let database = match &options.database {
            Some(given) => given.clone(),
            None => self.start_postgres(stack).await?,
        };
        let settings = kafka::Settings {
            folder: state.path("kafka"),
            jars: state.kafka_jars(),
            log: state.path("logs/kafka.log"),
            port: ports.at(KAFKA_PORT),
            controller_port: ports.at(KAFKA_CONTROLLER_PORT),
            short_lived: false,
        };
        let resolve = async {
            Ok(if kafka::resolve_jars(&settings.jars).await? { "from Maven Central" } else { "are there" })
        };
        progress.step("Kafka's jars", resolve).await?;
        let start = async {
            let broker = kafka::Kafka::start(&settings).await?;
            let address = broker.bootstrap().to_owned();
            stack.kafka = Some(broker);
            Ok(address)
        };
        let bootstrap = progress.step("Kafka runs", start).await?;
        let prepare = async {
            let dialect = database::prepare(state, &database, options.dialect).await?;
            let broker = chassis::kafka::Settings::local(bootstrap.as_str(), "");
            topics::create(&topics::Settings { broker, partitions: PARTITIONS, replication: 1 }).await?;
            Ok(format!("dialect {}", dialect.as_str()))
        };
        progress.step("schema and topics", prepare).await.map(|_| ())
    }

    async fn start_postgres(&self, stack: &mut Stack) -> Result<database::Server> {
        let settings = postgres::Settings {
            folder: self.state.path("postgres"),
            log: self.state.path("logs/postgres.log"),
            port: self.ports.at(POSTGRES_PORT),
            durable: true,
            further: Vec::new(),
        };
        let mut database = None;
        let start = async {
            let server = postgres::Postgres::start(&settings).await?;
            database = Some(database::Server::new(&server.url("postgres"), None)?);
            stack.postgres = Some(server);
            Ok(format!("127.0.0.1:{}", settings.port))
        };
        self.progress.step("PostgreSQL runs", start).await?;
        database.context("PostgreSQL was just started")
    }
}

fn offset_file(state: &State) -> std::path::PathBuf {
    state.path("run/port-offset")
}

fn pid_file(state: &State) -> std::path::PathBuf {
    state.path("run/up.pid")
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

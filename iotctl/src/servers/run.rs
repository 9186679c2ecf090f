//! Runs a command with servers of its own: `iotctl servers run -- cargo test`.

use super::kafka::{self, Kafka};
use super::postgres::{self, Postgres};
use crate::files;
use crate::process::{self, Stop, end_leftover};
use crate::progress::Progress;
use crate::state::{Lock, State, free_port};
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Variable with the superuser's URL of a PostgreSQL server for tests.
pub const DATABASE_URL: &str = "TEST_DATABASE_URL";
/// Variable with the bootstrap address of a Kafka broker for tests.
pub const KAFKA_BOOTSTRAP: &str = "TEST_KAFKA_BOOTSTRAP";

/// Servers that exist already and are not started, and what is asked of those that are.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The superuser's URL of a PostgreSQL server.
    pub database_url: Option<String>,
    /// The bootstrap address of a Kafka broker.
    pub kafka_bootstrap: Option<String>,
    /// Whether a commit waits for the disk where PostgreSQL is started: what is measured must, what is tested
    /// need not.
    pub durable: bool,
    /// `name=value` settings of PostgreSQL where it is started.
    pub postgres_settings: Vec<String>,
}

/// Servers in a folder of their own, which ends with them.
pub struct TestServers {
    postgres: Option<Postgres>,
    kafka: Option<Kafka>,
    folder: PathBuf,
    _lock: Lock,
}

impl TestServers {
    /// Starts both servers that `given` does not name, on free ports, and removes what killed runs left
    /// behind.
    ///
    /// # Errors
    /// A server cannot be started; the message says which and where its log is.
    pub async fn start(state: &State, given: &Given, progress: &Progress) -> Result<Self> {
        let runs = state.path("test");
        sweep(&runs).await?;
        let folder = runs.join(format!("run-{}", files::random_name(8)));
        std::fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
        let lock = Lock::take(&folder.join("lock"))?.context("the lock of a new folder is taken")?;
        let mut servers = Self { postgres: None, kafka: None, folder: folder.clone(), _lock: lock };
        if given.database_url.is_none() {
            let settings = postgres::Settings {
                folder: folder.join("postgres"),
                log: folder.join("postgres.log"),
                port: free_port()?,
                durable: given.durable,
                further: given.postgres_settings.clone(),
            };
            let start = async {
                servers.postgres = Some(Postgres::start(&settings).await?);
                Ok(format!("127.0.0.1:{}", settings.port))
            };
            progress.step("start PostgreSQL for tests", start).await?;
        }
        if given.kafka_bootstrap.is_none() {
            let settings = kafka::Settings {
                folder: folder.join("kafka"),
                jars: state.kafka_jars(),
                log: folder.join("kafka.log"),
                port: free_port()?,
                controller_port: free_port()?,
                short_lived: true,
            };
            let start = async {
                kafka::resolve_jars(&settings.jars).await?;
                servers.kafka = Some(Kafka::start(&settings).await?);
                Ok(format!("127.0.0.1:{}", settings.port))
            };
            progress.step("start Kafka for tests", start).await?;
        }
        Ok(servers)
    }

    /// Returns the environment by which tests find the servers.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let database = self.postgres.iter().map(|server| (DATABASE_URL, server.url("postgres")));
        let broker = self.kafka.iter().map(|broker| (KAFKA_BOOTSTRAP, broker.bootstrap().to_owned()));
        database.chain(broker).collect()
    }

    /// Stops both; removes their folder, or keeps it with the logs when `keep` says so (the next run removes
    /// it).
    ///
    /// # Errors
    /// A server did not end cleanly.
    pub async fn stop(self, keep: bool) -> Result<()> {
        if let Some(kafka) = self.kafka {
            kafka.stop().await?;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        if !keep {
            std::fs::remove_dir_all(&self.folder)
                .with_context(|| format!("remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}

/// Runs `command` with test servers and returns its exit code. Ctrl-C and SIGTERM end the command first, then
/// the servers.
///
/// # Errors
/// A server or the command cannot be started.
pub async fn run(state: &State, given: &Given, command: &[OsString], progress: &Progress) -> Result<u8> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let servers = tokio::select! {
        servers = TestServers::start(state, given, progress) => servers?,
        _ = interrupt.recv() => return Ok(128 + 2),
        _ = terminate.recv() => return Ok(128 + 15),
    };
    // The command shares this process's group: a terminal's Ctrl-C reaches both, and it may read the
    // terminal.
    let mut child = Command::new(program)
        .args(arguments)
        .envs(servers.environment())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {}", program.to_string_lossy()))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("wait for the command")?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
            }
        }
    };
    let code = process::exit_code(status);
    if code != 0 {
        progress.note(&format!(
            "the command ended with {status}; the servers' logs are in {}",
            servers.folder.display()
        ));
    }
    servers.stop(code != 0).await?;
    Ok(code)
}

/// Ends the servers of runs that were killed and removes their folders; runs whose lock is held go on.
async fn sweep(runs: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(runs) else {
        return Ok(());
    };
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()) {
        let Some(_lock) = Lock::take(&folder.join("lock"))? else {
            continue;
        };
        // Their data ends here, so they need not end in order.
        for (pid_file, signal) in
            [("postgres/postgres.pid", Signal::SIGQUIT), ("kafka/kafka.pid", Signal::SIGKILL)]
        {
            end_leftover(&folder.join(pid_file), Stop { signal, ..Stop::TERM }).await?;
        }
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

//! A private PostgreSQL server with logical decoding.
//!
//! `initdb` and `postgres` refuse to run as root. When root starts them, they run in a user namespace where
//! root's files look like an ordinary user's; where the system does not permit that, as the user `postgres`,
//! which is then given the folder.

use super::{READY_POLL, READY_WITHIN};
use crate::files;
use crate::process::{self, Process, Stop, end_leftover};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// The way a server ends: SIGINT is PostgreSQL's fast shutdown, which ends sessions and writes a checkpoint.
/// SIGQUIT leaves recovery to the next start.
pub(crate) const STOP: Stop =
    Stop { signal: Signal::SIGINT, grace: Duration::from_secs(30), abort: Signal::SIGQUIT };
/// Major versions that Debian has, the preferred one first: 15 is Debian 12's.
const DEBIAN_MAJORS: [&str; 4] = ["15", "16", "17", "18"];
/// The superuser.
const ADMIN: &str = "postgres";

/// Where and how a server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of its data, password and pid file.
    pub folder: PathBuf,
    /// Its log file.
    pub log: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Whether a commit waits for the disk. Tests, whose data ends with them, do without.
    pub durable: bool,
    /// Further `name=value` settings; they win.
    pub further: Vec<String>,
}

/// A running server; dropping it ends it.
pub struct Postgres {
    process: Process,
    port: u16,
    password: String,
}

impl Postgres {
    /// Starts the server and returns once it answers a query; makes its data folder first when there is none.
    ///
    /// # Errors
    /// PostgreSQL is not installed, the folder is unusable, or the server does not answer in time; the
    /// message holds its log's end.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let data = settings.folder.join("data");
        let password_file = settings.folder.join("password");
        let pid_file = settings.folder.join("postgres.pid");
        end_leftover(&pid_file, STOP).await?;
        let programs = find_programs(&data)?;
        let password = files::secret_or_new(&password_file)?;
        let runner = Runner::choose(&settings.folder).await?;
        if !data.join("PG_VERSION").exists() {
            initialise(&runner, &programs, &settings.folder, &password_file).await?;
        }
        let mut command = runner.command(programs.join("postgres"));
        command.arg("-D").arg(&data).current_dir(&settings.folder);
        for option in options(settings, &programs) {
            command.arg("-c").arg(option);
        }
        let process = Process::start("PostgreSQL", &mut command, &settings.log, &pid_file, STOP)?;
        let mut server = Self { process, port: settings.port, password };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Returns the superuser's URL of `database`. A secret.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ADMIN}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Gives access to its process, to be watched.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends every session, writes a checkpoint and stops.
    ///
    /// # Errors
    /// It did not end cleanly.
    pub async fn stop(self) -> Result<()> {
        let log = self.process.log().display().to_string();
        let status = self.process.stop().await?;
        ensure!(status.success(), "PostgreSQL ended with {status}; its log is {log}");
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let url = self.url(ADMIN);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.process.ensure_running()?;
            let Err(error) = answers(&url).await else { return Ok(()) };
            if Instant::now() > deadline {
                let log = self.process.log().display();
                bail!("PostgreSQL does not answer on port {}: {error:#}; its log is {log}", self.port);
            }
            sleep(READY_POLL).await;
        }
    }
}

async fn answers(url: &str) -> Result<()> {
    let client = chassis::postgres::Settings::local(url).connect().await?;
    client.simple_query("SELECT 1").await.context("ask for an answer")?;
    Ok(())
}

/// Settings that differ from PostgreSQL's defaults.
fn options(settings: &Settings, programs: &Path) -> Vec<String> {
    let mut options: Vec<String> = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "wal_level=logical",
        // Every test that tails the WAL has a slot of its own.
        "max_replication_slots=100",
        "max_wal_senders=100",
        // A forgotten slot may not fill the disk; its reader takes a new snapshot then.
        "max_slot_wal_keep_size=4GB",
        "max_connections=300",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_line_prefix=%m [%p] %q%u@%d ",
        "cluster_name=fieldline",
    ]
    .map(str::to_owned)
    .to_vec();
    options.push(format!("port={}", settings.port));
    if !settings.durable {
        options.extend(["fsync=off", "full_page_writes=off", "max_wal_size=4GB"].map(str::to_owned));
    }
    // TimescaleDB must be loaded at start; the migrations then choose its dialect.
    let library = programs.parent().map(|prefix| prefix.join("lib/timescaledb.so"));
    if library.is_some_and(|library| library.exists()) {
        options.extend(
            ["shared_preload_libraries=timescaledb", "timescaledb.telemetry_level=off"].map(str::to_owned),
        );
    }
    options.extend_from_slice(&settings.further);
    options
}

/// Makes the data folder beside its final name, so that a killed run leaves no half of one.
async fn initialise(runner: &Runner, programs: &Path, folder: &Path, password_file: &Path) -> Result<()> {
    let draft = folder.join("data.draft");
    if draft.exists() {
        std::fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))?;
    }
    let mut command = runner.command(programs.join("initdb"));
    command.arg("-D").arg(&draft).arg("--pwfile").arg(password_file).current_dir(folder);
    command.args([
        "--username",
        ADMIN,
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C.UTF-8",
    ]);
    let output = command.stdin(Stdio::null()).output().await.context("run initdb")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "initdb ended with {}: {}", output.status, said.trim());
    std::fs::rename(&draft, folder.join("data")).context("name the new data folder")
}

/// Finds the programs of the version that made `data`, or the preferred one that is installed.
fn find_programs(data: &Path) -> Result<PathBuf> {
    let made_by = std::fs::read_to_string(data.join("PG_VERSION")).ok();
    let debian = |major: &str| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let candidates: Vec<PathBuf> = match made_by.as_deref().map(str::trim) {
        Some(major) => vec![debian(major)],
        None => DEBIAN_MAJORS.iter().map(|major| debian(major)).collect(),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .with_context(|| {
            let version = made_by.as_deref().map_or("15", str::trim);
            format!("PostgreSQL {version} is not installed (Debian: apt-get install postgresql-{version})")
        })
}

/// How the server's programs are run.
#[derive(Debug)]
enum Runner {
    /// As the user who started this.
    Directly,
    /// As user 1000 of a new user namespace, which is root outside.
    InUserNamespace,
    /// As the system's user `postgres`.
    AsPostgres,
}

impl Runner {
    async fn choose(folder: &Path) -> Result<Self> {
        // The owner of a process's folder in /proc is its effective user.
        let user = std::fs::metadata("/proc/self").context("find out who runs this")?.uid();
        if user != 0 {
            return Ok(Self::Directly);
        }
        let mut probe = Self::InUserNamespace.command("true");
        let permitted = probe.stdin(Stdio::null()).stderr(Stdio::null()).status().await;
        if permitted.is_ok_and(|status| status.success()) {
            return Ok(Self::InUserNamespace);
        }
        let mut give = Command::new("chown");
        give.args(["-R", "postgres:postgres"]).arg(folder);
        let given = give.status().await.context("give the data folder to the user postgres")?;
        ensure!(
            given.success(),
            "root may neither make user namespaces nor give {} to postgres",
            folder.display()
        );
        Ok(Self::AsPostgres)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let wrapper: &[&str] = match self {
            Self::Directly => return process::command(program, STOP.signal),
            Self::InUserNamespace => &["unshare", "--user", "--map-user=1000", "--map-group=1000"],
            Self::AsPostgres => &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"],
        };
        // The signal is set within, since another user's process loses it.
        let within = process::command(program, STOP.signal);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg("--").arg(within.as_std().get_program());
        command.args(within.as_std().get_args());
        command
    }
}

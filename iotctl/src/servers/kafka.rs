//! A private Apache Kafka broker in KRaft mode, run from jars that Maven resolves.

use super::{READY_POLL, READY_WITHIN, jars};
use crate::files::{self, Readers};
use crate::process::{self, Process, Stop, end_leftover};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

const POM: &str = include_str!("../../kafka/pom.xml");
const LOG4J: &str = include_str!("../../kafka/log4j2.properties");

/// The way a broker ends: SIGTERM flushes every log and moves leadership away; a killed one checks its logs
/// at the next start.
pub(crate) const STOP: Stop =
    Stop { signal: Signal::SIGTERM, grace: Duration::from_secs(30), abort: Signal::SIGKILL };
/// Heap of the broker: it ran at 340 MB resident with this, and the page cache does the rest.
const HEAP: &str = "-Xmx512m";

/// Where and how a broker runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of its data, settings and pid file.
    pub folder: PathBuf,
    /// Folder of its jars (see [`resolve_jars`]).
    pub jars: PathBuf,
    /// Its log file.
    pub log: PathBuf,
    /// The clients' port on 127.0.0.1.
    pub port: u16,
    /// The controller's port on 127.0.0.1.
    pub controller_port: u16,
    /// Whether it lives for a test run only: then it compiles quickly rather than well, which halves its
    /// start (5.6 s of processor time to 3.2 s).
    pub short_lived: bool,
}

/// A running broker; dropping it ends it.
pub struct Kafka {
    process: Process,
    bootstrap: String,
}

impl Kafka {
    /// Starts the broker and returns once it answers; formats its storage first when there is none.
    ///
    /// # Errors
    /// Java or the jars are not there, the folder is unusable, or the broker does not answer in time; the
    /// message holds its log's end.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let pid_file = settings.folder.join("kafka.pid");
        end_leftover(&pid_file, STOP).await?;
        let data = settings.folder.join("data");
        if !data.join("meta.properties").exists() {
            format_storage(settings, &data).await?;
        }
        let properties = settings.folder.join("server.properties");
        files::write(&properties, server_properties(settings, &data).as_bytes(), Readers::Everyone)?;
        // Nobody needs the logs of a short-lived broker, and a test may have stopped it.
        let signal = if settings.short_lived { Signal::SIGKILL } else { STOP.signal };
        let mut command = java(settings, process::command("java", signal))?;
        command.arg("kafka.Kafka").arg(&properties);
        let process = Process::start("Kafka", &mut command, &settings.log, &pid_file, STOP)?;
        let mut broker = Self { process, bootstrap: format!("127.0.0.1:{}", settings.port) };
        broker.wait_ready().await?;
        Ok(broker)
    }

    /// Returns `host:port`, as clients want it.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Gives access to its process, to be watched.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Flushes its logs and stops.
    ///
    /// # Errors
    /// The system does not say how it ended. (A JVM that SIGTERM ends reports 143, also when all went well.)
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(|_| ())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.process.ensure_running()?;
            let bootstrap = self.bootstrap.clone();
            let Err(error) = tokio::task::spawn_blocking(move || answers(&bootstrap)).await? else {
                return Ok(());
            };
            if Instant::now() > deadline {
                let log = self.process.log().display();
                bail!("Kafka does not answer on {}: {error:#}; its log is {log}", self.bootstrap);
            }
            sleep(READY_POLL).await;
        }
    }
}

/// Copies Kafka's jars into `folder`, unless the same set is there already; says whether it did.
///
/// # Errors
/// As [`jars::resolve`].
pub async fn resolve_jars(folder: &Path) -> Result<bool> {
    jars::resolve(folder, POM).await
}

fn java(settings: &Settings, mut command: Command) -> Result<Command> {
    let log4j = settings.folder.join("log4j2.properties");
    files::write(&log4j, LOG4J.as_bytes(), Readers::Everyone)?;
    command
        .arg(HEAP)
        .arg("-XX:+ExitOnOutOfMemoryError")
        .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
    if settings.short_lived {
        command.arg("-XX:TieredStopAtLevel=1");
    }
    command.arg("-cp").arg(settings.jars.join("*")).current_dir(&settings.folder);
    Ok(command)
}

/// Formats storage beside its final name, so that a killed run leaves no half of it.
async fn format_storage(settings: &Settings, data: &Path) -> Result<()> {
    let draft = settings.folder.join("data.draft");
    if draft.exists() {
        std::fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))?;
    }
    let properties = settings.folder.join("format.properties");
    files::write(&properties, server_properties(settings, &draft).as_bytes(), Readers::Everyone)?;
    let mut command = java(settings, Command::new("java"))?;
    // 16 bytes in URL-safe base64 are 22 characters, the last of which holds two bits.
    let cluster_id = files::random_name(21) + "A";
    command.args([
        "kafka.tools.StorageTool",
        "format",
        "--standalone",
        "--cluster-id",
        &cluster_id,
        "--config",
    ]);
    command.arg(&properties).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        command.output().await.context("run java (Debian: apt-get install openjdk-17-jre-headless)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "Kafka's storage tool ended with {}: {}", output.status, said.trim());
    std::fs::rename(&draft, data).context("name Kafka's new data folder")
}

fn server_properties(settings: &Settings, data: &Path) -> String {
    let Settings { port, controller_port, .. } = settings;
    let data = data.display();
    format!(
        "\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={data}
# A topic exists because the topic map names it.
auto.create.topics.enable=false
# One broker holds the only copy.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A single consumer waits for nobody.
group.initial.rebalance.delay.ms=0
# The default of 128 MB is a quarter of the heap; compacted topics are small here.
log.cleaner.dedupe.buffer.size=16777216
"
    )
}

fn answers(bootstrap: &str) -> Result<()> {
    let client: BaseConsumer = chassis::kafka::Settings::local(bootstrap, "")
        .client()
        // Refused connections are expected while the broker starts.
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
        .create()
        .context("make a Kafka client")?;
    let metadata = client.fetch_metadata(None, Duration::from_secs(2)).context("ask for metadata")?;
    ensure!(!metadata.brokers().is_empty(), "the broker has not registered yet");
    Ok(())
}

//! The Java peers' jars, from Maven Central, and the classes that are compiled here.

use anyhow::{Context as _, Result, ensure};
use iotctl::files::{self, Readers};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

const POM: &str = include_str!("../java/pom.xml");
const CONSUMER: &str = include_str!("../java/JdbcConsumer.java");
const STREAMS_POM: &str = include_str!("../java/streams.xml");
const STREAMS: &str = include_str!("../java/AlertsTopology.java");
const LOGGING: &str = include_str!("../java/log4j2.properties");

/// What makes a set of peers: Maven's project, what of it is copied or unpacked where, and our class.
struct Set {
    pom: &'static str,
    /// Goal, type of artifact, folder.
    steps: &'static [(&'static str, &'static str, &'static str)],
    class: &'static str,
    source: &'static str,
}

/// Kafka Connect with the JDBC sink, and a plain consumer.
const WRITERS: Set = Set {
    pom: POM,
    steps: &[
        ("dependency:copy-dependencies", "jar", JARS),
        ("dependency:unpack-dependencies", "tar.gz", PLUGINS),
    ],
    class: "JdbcConsumer",
    source: CONSUMER,
};
/// Kafka Streams.
const EVALUATORS: Set = Set {
    pom: STREAMS_POM,
    steps: &[("dependency:copy-dependencies", "jar", JARS)],
    class: "AlertsTopology",
    source: STREAMS,
};
/// Folder of the jars.
const JARS: &str = "jars";
/// Folder of Kafka Connect's plugins.
const PLUGINS: &str = "plugins";

/// Where the peers are.
#[derive(Clone, Debug)]
pub struct Peers {
    folder: PathBuf,
}

impl Peers {
    /// Resolves the jars of the writing peers, unless the same set is there already, and compiles the
    /// consumer.
    ///
    /// # Errors
    /// Maven or a Java compiler is not installed, or something cannot be downloaded.
    pub async fn prepare(folder: &Path) -> Result<Self> {
        Self::make(folder, &WRITERS).await
    }

    /// Does so for Kafka Streams and its topology.
    ///
    /// # Errors
    /// As [`Peers::prepare`].
    pub async fn streams(folder: &Path) -> Result<Self> {
        Self::make(folder, &EVALUATORS).await
    }

    async fn make(folder: &Path, set: &Set) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        let peers = Self { folder: folder.canonicalize().context("find the peers' folder")? };
        // The pom marks a complete set: it is written last under its name, and another version's pom differs.
        let marker = folder.join("pom.xml");
        if !files::read(&marker).is_ok_and(|pom| pom == set.pom) {
            let draft = folder.join("draft-pom.xml");
            files::write(&draft, set.pom.as_bytes(), Readers::Everyone)?;
            for (goal, kind, output) in set.steps {
                let output = peers.folder.join(output);
                let mut maven = Command::new("mvn");
                maven.args(["--batch-mode", "--quiet", "--file"]).arg(&draft).arg(goal);
                maven
                    .arg(format!("-DincludeTypes={kind}"))
                    .arg(format!("-DoutputDirectory={}", output.display()));
                run(maven, "Maven (Debian: apt-get install maven)").await?;
            }
            std::fs::rename(&draft, &marker).context("name the peers' pom")?;
        }
        files::write(&peers.logging(), LOGGING.as_bytes(), Readers::Everyone)?;
        let source = folder.join(set.class).with_extension("java");
        files::write(&source, set.source.as_bytes(), Readers::Everyone)?;
        let mut compiler = Command::new("javac");
        compiler.arg("-cp").arg(peers.jars().join("*")).arg("-d").arg(&peers.folder).arg(&source);
        run(compiler, "javac (Debian: apt-get install default-jdk-headless)").await?;
        Ok(peers)
    }

    fn jars(&self) -> PathBuf {
        self.folder.join(JARS)
    }

    fn logging(&self) -> PathBuf {
        self.folder.join("log4j2.properties")
    }

    /// Returns the folder of Kafka Connect's plugins.
    pub fn plugins(&self) -> PathBuf {
        self.folder.join(PLUGINS)
    }

    /// Returns a folder for a peer's settings.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn settings(&self) -> Result<PathBuf> {
        let folder = self.folder.join("settings");
        std::fs::create_dir_all(&folder).context("make the peers' settings folder")?;
        Ok(folder)
    }

    /// Returns a command that runs a class of the jars or of ours.
    pub fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.arg("-Xmx1g").arg(format!("-Dlog4j2.configurationFile={}", self.logging().display()));
        java.arg("-cp");
        java.arg(format!("{}:{}/*", self.folder.display(), self.jars().display())).arg(class);
        java
    }
}

async fn run(mut command: Command, what: &str) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run {what}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&said).trim()
    );
    Ok(())
}

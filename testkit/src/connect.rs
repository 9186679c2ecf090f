//! Kafka Connect with Debezium's connector, as one process.

use iotctl::process::{self, Process, Stop};
use iotctl::servers::jars;
use iotctl::state::State;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

const CONNECT: &str = include_str!("../connect/pom.xml");
const DEBEZIUM: &str = include_str!("../debezium/pom.xml");
/// Warnings to standard output, which goes to the log file.
const LOG4J: &str = "status = error\nappender.out.type = Console\nappender.out.name = out\n\
                     appender.out.layout.type = PatternLayout\nappender.out.layout.pattern = %d %-5p %m (%c{1})%n\n\
                     rootLogger.level = warn\nrootLogger.appenderRef.out.ref = out\n";
/// Heap of the process: the tables of a test are small.
const HEAP: &str = "-Xmx256m";
/// Name of the one connector.
const NAME: &str = "fieldline-changes";

/// A Connect process that ends with this value, and the connector that it is to run.
pub struct Connect {
    bootstrap: String,
    connector: BTreeMap<String, String>,
    port: u16,
    folder: TempDir,
    client: reqwest::Client,
    /// None while it is killed.
    process: Option<Process>,
}

impl Connect {
    /// Starts a process with that connector and waits until it runs.
    ///
    /// # Panics
    /// The jars cannot be had, or the connector fails; the message holds its reason.
    pub async fn start(bootstrap: &str, connector: BTreeMap<String, String>) -> Self {
        let mut connect = Self {
            bootstrap: bootstrap.to_owned(),
            connector,
            port: crate::free_port(),
            folder: tempfile::tempdir().unwrap(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            process: None,
        };
        connect.restart().await;
        connect
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let pid = process::recorded(&self.folder.path().join("connect.pid")).expect("it runs");
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        process.wait().await.unwrap();
    }

    /// Starts it, on the offsets that it had, and waits until the connector runs.
    ///
    /// # Panics
    /// As [`Connect::start`].
    pub async fn restart(&mut self) {
        let state = State::open(None).unwrap();
        let (connect, plugins) = (state.path("connect-jars"), state.path("connect-plugins"));
        jars::resolve(&connect, CONNECT).await.unwrap();
        // A plugin is a folder within the path of plugins.
        jars::resolve(&plugins.join("debezium"), DEBEZIUM).await.unwrap();
        let (properties, log4j) = (self.file("worker.properties"), self.file("log4j2.properties"));
        std::fs::write(&properties, self.worker(&plugins.display().to_string())).unwrap();
        std::fs::write(&log4j, LOG4J).unwrap();
        let mut command = process::command("java", Signal::SIGKILL);
        command.args([HEAP, "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"]);
        command.arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
        command.arg("-cp").arg(connect.join("*"));
        command.arg("org.apache.kafka.connect.cli.ConnectStandalone").arg(properties);
        let stop = Stop { abort: Signal::SIGKILL, ..Stop::TERM };
        let (log, pid_file) = (self.file("connect.log"), self.file("connect.pid"));
        self.process = Some(Process::start("Kafka Connect", &mut command, &log, &pid_file, stop).unwrap());
        self.configure().await;
        crate::wait::until("the connector to run", async || {
            let status = self.status().await?;
            let states: Vec<&Value> =
                [&status["connector"]].into_iter().chain(status["tasks"].as_array()?).collect();
            let failed = states.iter().find(|state| state["state"] == "FAILED");
            assert!(failed.is_none(), "{}", failed.unwrap()["trace"].as_str().unwrap_or_default());
            (states.len() > 1 && states.iter().all(|state| state["state"] == "RUNNING")).then_some(())
        })
        .await;
    }

    /// Asserts that nothing of it has failed.
    ///
    /// # Panics
    /// Something has.
    pub async fn is_running(&self) {
        let status = self.status().await.expect("it answers");
        assert!(!status.to_string().contains("FAILED"), "{status}");
    }

    async fn configure(&mut self) {
        let url = format!("http://127.0.0.1:{}/connectors/{NAME}/config", self.port);
        let started = std::time::Instant::now();
        loop {
            let alive = self.process.as_mut().expect("it was started").ensure_running();
            alive.unwrap_or_else(|error| panic!("{error:#}"));
            if let Ok(answer) = self.client.put(&url).json(&json!(self.connector)).send().await {
                let status = answer.status();
                let said = answer.text().await.unwrap();
                // Its listener is open before its resources are there.
                if status != reqwest::StatusCode::NOT_FOUND {
                    assert!(status.is_success(), "{status}: {said}");
                    return;
                }
            }
            assert!(started.elapsed() < crate::wait::PATIENCE, "Kafka Connect does not answer");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn status(&self) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/connectors/{NAME}/status", self.port);
        self.client.get(url).send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    fn worker(&self, plugins: &str) -> String {
        let Self { bootstrap, port, .. } = self;
        format!(
            "bootstrap.servers={bootstrap}\nlisteners=http://127.0.0.1:{port}\nplugin.path={plugins}\n\
             key.converter=org.apache.kafka.connect.json.JsonConverter\n\
             value.converter=org.apache.kafka.connect.json.JsonConverter\n\
             offset.storage.file.filename={}\noffset.flush.interval.ms=500\n",
            self.file("offsets").display()
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.file("connect.log")).unwrap_or_default();
            eprintln!("=== Kafka Connect ===\n{log}");
        }
    }
}

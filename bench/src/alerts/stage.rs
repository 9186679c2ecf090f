//! What every part shares: topics of its own, the workload, and the service as a process.

use super::options::Options;
use crate::readings::Workload;
use crate::topic::Topic;
use anyhow::{Context as _, Result, ensure};
use chassis::kafka::{self, EndReader, Step};
use iotctl::process::{Process, Stop, recorded};
use iotctl::state::free_port;
use rdkafka::message::Message as _;
use schema::topics::{self, Partitions};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// Seed of the workload.
const SEED: u64 = 12;
/// Time within which the service is ready, also with very many rules.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// Interval between two looks at it.
const READY_POLL: Duration = Duration::from_millis(20);

/// A prefix with its topics.
pub(super) struct Stage {
    pub(super) options: Arc<Options>,
    pub(super) kafka: kafka::Settings,
    pub(super) workload: Arc<Workload>,
    pub(super) readings: Topic,
}

/// A client as a process.
pub(super) struct Client {
    pub(super) process: Process,
    pub(super) pid: u32,
}

/// Says how many alerts of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Alerts {
    pub(super) firing: u64,
    pub(super) resolved: u64,
}

impl Stage {
    pub(super) async fn set(options: &Arc<Options>) -> Result<Self> {
        let prefix = format!("bench-{}-", iotctl::files::random_name(6));
        let kafka = kafka::Settings::local(&options.kafka_bootstrap, prefix);
        let workload = Arc::new(Workload::new(options.sensors, SEED));
        let readings = Topic::create(&kafka, topics::READINGS.name, options.partitions).await?;
        let stage = Self { options: Arc::clone(options), kafka, workload, readings };
        for topic in topics::ALL {
            stage.create(topic.name).await?;
        }
        stage.create(super::streams::RULES).await?;
        stage.create(super::streams::ALERTS).await?;
        Ok(stage)
    }

    /// Makes topics anew, empty.
    pub(super) async fn empty(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.create(name).await?.delete().await?;
            self.create(name).await?;
        }
        Ok(())
    }

    async fn create(&self, name: &str) -> Result<Topic> {
        let topic = topics::ALL.iter().find(|topic| topic.name == name);
        let partitions = match topic.map(|topic| topic.partitions) {
            Some(Partitions::Scaled) => self.options.partitions,
            None if name == super::streams::ALERTS => self.options.partitions,
            Some(Partitions::Single) | None => 1,
        };
        Topic::create(&self.kafka, name, partitions).await
    }

    /// Starts the service.
    pub(super) fn start(&self) -> Result<(Client, u16)> {
        let admin_port = free_port()?;
        let mut command = Command::new(self.options.alerting());
        command
            .env("ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.options.kafka_bootstrap)
            .env("KAFKA_TOPIC_PREFIX", self.kafka.topic(""))
            .env("INSTANCE_ID", "bench");
        Ok((Client::start(self, "alerting-svc", &mut command)?, admin_port))
    }

    /// Starts the service and waits until it is ready.
    pub(super) async fn start_ready(&self) -> Result<Client> {
        let (mut client, admin_port) = self.start()?;
        let url = format!("http://127.0.0.1:{admin_port}/readyz");
        let http = reqwest::Client::builder().no_proxy().build().context("make an HTTP client")?;
        let started = Instant::now();
        while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            client.process.ensure_running()?;
            let log = client.process.log().display();
            ensure!(started.elapsed() < READY_WITHIN, "alerting-svc is not ready; its log is {log}");
            sleep(READY_POLL).await;
        }
        Ok(client)
    }

    /// Counts what a `read_committed` reader finds in a topic of alerts.
    pub(super) fn count(&self, topic: &str) -> Result<Alerts> {
        #[derive(Deserialize)]
        struct Alert {
            status: String,
        }
        let mut reader = EndReader::open(&self.kafka, "bench-alerts", &self.kafka.topic(topic))?;
        reader.add(&reader.partitions()?, i64::MAX)?;
        let mut alerts = Alerts::default();
        while !reader.is_done() {
            let Step::Record(record) = reader.step()? else { continue };
            let alert: Alert =
                serde_json::from_slice(record.payload().unwrap_or_default()).context("read an alert")?;
            match alert.status.as_str() {
                "firing" => alerts.firing += 1,
                _ => alerts.resolved += 1,
            }
        }
        Ok(alerts)
    }
}

impl Client {
    pub(super) fn start(stage: &Stage, label: &str, command: &mut Command) -> Result<Self> {
        let folder = &stage.options.folder;
        let (log, pid_file) =
            (folder.join(format!("alerts-{label}.log")), folder.join(format!("alerts-{label}.pid")));
        let process = Process::start(label, command, &log, &pid_file, Stop::TERM)?;
        let pid = recorded(&pid_file).with_context(|| format!("{label} ended as it started"))?;
        Ok(Self { process, pid: pid.as_raw().unsigned_abs() })
    }
}

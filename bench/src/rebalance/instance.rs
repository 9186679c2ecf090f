//! Instances of the services, and what they count until they end.

use super::Stage;
use anyhow::{Context as _, Result, ensure};
use iotctl::process::{Process, Stop};
use iotctl::state::free_port;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often an instance is asked what it has counted; the last answer of one that ends is at most this old.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Time within which an instance is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Names a service that is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Command,
    Alerting,
}

/// A running instance.
pub(super) struct Instance {
    service: Service,
    number: u8,
    process: Process,
    admin_port: u16,
    asking: JoinHandle<()>,
}

impl Service {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Command => "command-svc",
            Self::Alerting => "alerting-svc",
        }
    }

    /// Starts every instance, one after the other is ready.
    pub(super) async fn start(self, stage: &Stage) -> Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for number in 0..stage.options.instances {
            instances.push(Instance::start(stage, self, number).await?);
        }
        Ok(instances)
    }
}

impl Instance {
    async fn start(stage: &Stage, service: Service, number: u8) -> Result<Self> {
        let (name, admin_port) = (format!("rebalance-{}-{number}", service.name()), free_port()?);
        let mut command = Command::new(stage.options.program(service.name()));
        command
            .env("ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &stage.options.kafka_bootstrap)
            .env("KAFKA_TOPIC_PREFIX", stage.kafka.topic(""))
            .env("DATABASE_URL", &stage.database_url);
        if service == Service::Alerting || !stage.options.without_names {
            command.env("INSTANCE_ID", number.to_string());
        }
        let folder = &stage.options.folder;
        let (log, pid_file) = (folder.join(format!("{name}.log")), folder.join(format!("{name}.pid")));
        let process = Process::start(&name, &mut command, &log, &pid_file, Stop::TERM)?;
        let asking = tokio::spawn(ask(admin_port, stage.count_of_written_twice()));
        let mut instance = Self { service, number, process, admin_port, asking };
        instance.wait_ready().await?;
        Ok(instance)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let (url, started) = (format!("http://127.0.0.1:{}/readyz", self.admin_port), Instant::now());
        let client = client()?;
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.process.ensure_running()?;
            let log = self.process.log().display();
            ensure!(
                started.elapsed() < READY_WITHIN,
                "{} is not ready; its log is {log}",
                self.process.name()
            );
            sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// Ends it as an orchestrator does, and starts it again under its name.
    pub(super) async fn restart(self, stage: &Stage) -> Result<Self> {
        let (service, number) = (self.service, self.number);
        self.stop().await?;
        Self::start(stage, service, number).await
    }

    /// Ends it as an orchestrator does.
    pub(super) async fn stop(self) -> Result<()> {
        let name = self.process.name().to_owned();
        let status = self.process.stop().await?;
        self.asking.abort();
        ensure!(status.success(), "{name} ended with {status}");
        Ok(())
    }
}

/// Keeps the last answer of an instance, until it is aborted.
async fn ask(admin_port: u16, count: Arc<AtomicU64>) {
    let Ok(client) = client() else { return };
    let url = format!("http://127.0.0.1:{admin_port}/metrics");
    let find = async || {
        let page = client.get(&url).send().await.ok()?.text().await.ok()?;
        let line = page.lines().find_map(|line| line.strip_prefix("command_rows_duplicate_total "))?;
        line.trim().parse::<f64>().ok()
    };
    loop {
        if let Some(found) = find().await {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of rows")]
            count.store(found as u64, Ordering::Relaxed);
        }
        sleep(ASK_EVERY).await;
    }
}

fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .context("make an HTTP client")
}

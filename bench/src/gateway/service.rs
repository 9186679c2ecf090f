//! The gateway as the real process, with its defaults but for what one machine's load would run into.

use super::Stage;
use crate::{cpu, memory};
use anyhow::{Context as _, Result, ensure};
use iotctl::process::{Process, Stop, recorded};
use iotctl::state::free_port;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// How often it is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(50);
/// A gateway that is not ready by then has failed.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running gateway.
pub(super) struct Service {
    process: Process,
    pid: u32,
    /// Where it listens for MQTT.
    pub(super) port: u16,
}

impl Service {
    /// Starts it, and waits until it knows every device.
    pub(super) async fn start(stage: &Stage, label: &str, program: &Path, has_spool: bool) -> Result<Self> {
        let folder = &stage.options.folder;
        let (port, admin) = (free_port()?, free_port()?);
        let mut command = Command::new(program);
        command
            .env("ADMIN_LISTEN", format!("127.0.0.1:{admin}"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &stage.options.kafka_bootstrap)
            .env("KAFKA_TOPIC_PREFIX", stage.kafka.topic(""))
            .env("MQTT_LISTEN", format!("127.0.0.1:{port}"))
            .env("TLS_CERT_FILE", stage.certificates().join("server.pem"))
            .env("TLS_KEY_FILE", stage.certificates().join("server.key"))
            .env("TLS_CLIENT_CA_FILE", stage.pki.device_ca_file())
            // All come from one address, and each is faster than any sensor.
            .env("CONNECTIONS_PER_ADDRESS_MAX", "100000")
            .env("CONNECTIONS_MAX", "100000")
            .env("CONNECTIONS_PER_DEVICE_MAX", "100000")
            .env("CONNECTION_RATE_PER_ADDRESS_MAX", "1000000")
            .env("IN_FLIGHT_DEVICE_BYTES_MAX", "67108864")
            .env("IN_FLIGHT_MAX", stage.options.window.max(100).to_string())
            .env("PUBLISH_RATE_MAX", "1000000")
            .env("PUBLISH_BURST_MAX", "1000000");
        if has_spool {
            let spool = folder.join("gateway-spool");
            // Of the run before; a new one is made.
            let _ = std::fs::remove_dir_all(&spool);
            command.env("SPOOL_DIR", spool);
        }
        let pid_file = folder.join(format!("{label}.pid"));
        let process =
            Process::start(label, &mut command, &folder.join(format!("{label}.log")), &pid_file, Stop::TERM)?;
        let pid = recorded(&pid_file).with_context(|| format!("{label} ended as it started"))?;
        let mut service = Self { process, pid: pid.as_raw().unsigned_abs(), port };
        service.wait_ready(&format!("http://127.0.0.1:{admin}/readyz")).await?;
        Ok(service)
    }

    async fn wait_ready(&mut self, url: &str) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build().context("make an HTTP client")?;
        let started = Instant::now();
        loop {
            self.process.ensure_running()?;
            if client.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let log = self.process.log().display();
            ensure!(started.elapsed() < READY_WITHIN, "the gateway is not ready; its log is {log}");
            sleep(READY_POLL).await;
        }
    }

    /// Returns the CPU time that it has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu::of_process(self.pid)
    }

    /// Returns its resident memory.
    pub(super) fn resident_bytes(&self) -> Result<u64> {
        memory::resident_bytes(self.pid)
    }

    /// Stops it.
    pub(super) async fn stop(self) -> Result<()> {
        self.process.stop().await.map(|_| ())
    }
}

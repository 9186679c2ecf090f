//! The gateway as a process of its own, on the certificates and topics of a stack.

use crate::raw::Client;
use crate::stack::{Registered, Stack};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use testkit::{free_port, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway");

/// An administrative page that takes longer is asked for again.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A running gateway; killed with this value.
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

impl Process {
    /// Starts one with settings beside the necessary ones, and waits until it is ready.
    pub(crate) async fn start(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let process = Self::spawn(stack, settings);
        process.is_ready(true).await;
        process
    }

    /// Starts one and waits for nothing.
    pub(crate) fn spawn(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        Self::run(testkit::process::command(PROGRAM), stack, settings)
    }

    /// Starts one by a command that ends in it.
    pub(crate) fn run(mut command: Command, stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let file = |name: &str| stack.pki.path(name);
        let (port, admin_port) = (free_port(), free_port());
        let child = command
            .env("ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
            .env("MQTT_LISTEN", format!("127.0.0.1:{port}"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &stack.kafka.bootstrap)
            .env("KAFKA_TOPIC_PREFIX", &stack.kafka.prefix)
            .env("TLS_CERT_FILE", file("server.pem"))
            .env("TLS_KEY_FILE", file("server.key"))
            .env("TLS_CLIENT_CA_FILE", file("device-ca.pem"))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, admin_port }
    }

    /// Waits until it says that it is ready, or that it is not.
    pub(crate) async fn is_ready(&self, is_ready: bool) {
        let status = if is_ready { "HTTP/1.1 200" } else { "HTTP/1.1 503" };
        wait::until(&format!("/readyz to say {status}"), async || {
            self.ask("/readyz").await?.starts_with(status).then_some(())
        })
        .await;
    }

    /// What an administrative page says, head and all.
    pub(crate) async fn ask(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin_port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        timeout(ANSWER_WAIT, socket.read_to_string(&mut answer)).await.ok()?.ok()?;
        Some(answer)
    }

    /// The sum of a metric over its labels; 0 while it has none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.ask("/metrics").await.unwrap();
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum()
    }

    /// Memory that it holds at most at a time since it began; and now, when `peak` is not asked for.
    pub(crate) fn resident_bytes(&self, peak: bool) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let name = if peak { "VmHWM:" } else { "VmRSS:" };
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        wait::until("the process ends", async || self.child.try_wait().unwrap()).await
    }

    /// Connects a device as MQTT 3.1.1.
    pub(crate) async fn enter(&self, stack: &Stack, device: &Registered, client_id: &str) -> Client {
        let mut client = self.dial(stack, device).await;
        client.enter(4, client_id).await;
        client
    }

    /// Connects a device over TLS, without a word of MQTT.
    pub(crate) async fn dial(&self, stack: &Stack, device: &Registered) -> Client {
        Client::dial(self.port, &stack.pki.root_pem(), Some(&device.certificate)).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sets a limit of a process, also of one that runs, by a program that every Debian has.
pub(crate) fn set_limit(pid: u32, limit: &str) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status().unwrap();
    assert!(status.success(), "prlimit {limit}: {status}");
}

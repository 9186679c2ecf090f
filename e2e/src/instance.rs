//! One instance of a service as a process, of which there may be several.

use crate::service;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use tempfile::TempDir;
use testkit::wait::until;

/// A process that ends with this value.
pub struct Instance {
    name: &'static str,
    child: Child,
    admin_port: u16,
    folder: TempDir,
    client: reqwest::Client,
}

impl Instance {
    /// Starts the program beside this test's own, with these variables and an admin port of its own.
    ///
    /// # Panics
    /// It is not built.
    pub fn start(name: &'static str, variables: &[(&str, &str)]) -> Self {
        let (folder, admin_port) = (TempDir::new().unwrap(), testkit::free_port());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = testkit::process::command(service::program(name))
            .env("ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            name,
            child,
            admin_port,
            folder,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// It is not ready in time.
    pub async fn ready(&self) {
        until(&format!("{} to be ready", self.name), async || {
            let url = format!("http://127.0.0.1:{}/readyz", self.admin_port);
            self.client.get(&url).send().await.ok()?.status().is_success().then_some(())
        })
        .await;
    }

    /// Returns the value of a metric without labels; none when there is no answer or no such metric.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        let text = self.client.get(&url).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Stops its process, sockets open, until [`Instance::thaw`].
    ///
    /// # Panics
    /// It does not run.
    pub fn freeze(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
    }

    /// Ends what [`Instance::freeze`] began.
    ///
    /// # Panics
    /// It does not run.
    pub fn thaw(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Sends SIGTERM and waits for a clean end.
    ///
    /// # Panics
    /// It does not end in time, or not cleanly.
    pub async fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = until(&format!("{} to end", self.name), async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "=== {} ===\n{}",
                self.name,
                std::fs::read_to_string(self.log_file()).unwrap_or_default()
            );
        }
    }
}

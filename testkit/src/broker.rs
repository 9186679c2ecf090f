//! A Kafka broker of one test's own: one that may be frozen, killed and started again.

use crate::kafka::Kafka;
use iotctl::process;
use iotctl::servers::kafka;
use iotctl::state::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A broker that ends with this value.
pub struct Broker {
    settings: kafka::Settings,
    /// None while it is killed.
    server: Option<kafka::Kafka>,
    _folder: TempDir,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let jars = State::open(None).unwrap().kafka_jars();
        kafka::resolve_jars(&jars).await.unwrap();
        let settings = kafka::Settings {
            folder: folder.path().join("kafka"),
            jars,
            log: folder.path().join("kafka.log"),
            port: crate::free_port(),
            controller_port: crate::free_port(),
            short_lived: true,
        };
        let server = kafka::Kafka::start(&settings).await.unwrap();
        Self { settings, server: Some(server), _folder: folder }
    }

    /// Creates every topic of the map under a new prefix.
    ///
    /// # Panics
    /// It refuses that.
    pub async fn topics(&self) -> Kafka {
        Kafka::at(&format!("127.0.0.1:{}", self.settings.port)).await
    }

    /// Stops its process, sockets open, until [`Broker::thaw`].
    ///
    /// # Panics
    /// It does not run.
    pub fn freeze(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
    }

    /// Ends what [`Broker::freeze`] began.
    ///
    /// # Panics
    /// It does not run.
    pub fn thaw(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        let mut server = self.server.take().expect("it runs");
        server.process().wait().await.unwrap();
    }

    /// Starts a killed one again, on its old data and port, and waits until it answers.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn restart(&mut self) {
        self.server = Some(kafka::Kafka::start(&self.settings).await.unwrap());
    }

    fn pid(&self) -> Pid {
        process::recorded(&self.settings.folder.join("kafka.pid")).expect("it runs")
    }
}

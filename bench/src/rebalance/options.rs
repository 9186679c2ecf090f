//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Measures rolling restarts. Run it by `make bench-rebalance`, which starts the servers.
#[derive(Debug, Parser)]
#[command(name = "bench-rebalance")]
pub(super) struct Options {
    /// The superuser's URL of PostgreSQL.
    #[arg(long, env = "TEST_DATABASE_URL", hide_env_values = true)]
    pub(super) database_url: String,
    /// The bootstrap address of Kafka.
    #[arg(long, env = "TEST_KAFKA_BOOTSTRAP")]
    pub(super) kafka_bootstrap: String,
    /// Folder of command-svc, alerting-svc and the iotctl of the same build [default: that of this program].
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Names the build in the table.
    #[arg(long, default_value = "this build")]
    pub(super) label: String,
    /// Readings offered per second.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(super) rate: u32,
    /// Sensors that the readings come from.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    pub(super) sensors: u32,
    /// Partitions of the readings.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(super) partitions: i32,
    /// Instances of each service.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(super) instances: u8,
    /// Time before the first restart, and between two.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub(super) steady_seconds: u16,
    /// Leaves out the INSTANCE_ID of command-svc, so that its instances are strangers when they come back.
    #[arg(long)]
    pub(super) without_names: bool,
    /// Where logs are kept.
    #[arg(long, default_value = "target/bench")]
    pub(super) folder: PathBuf,
}

impl Options {
    /// Returns the path of a program of the build that is measured.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        match &self.programs {
            Some(folder) => folder.join(name),
            None => std::env::current_exe().unwrap_or_default().with_file_name(name),
        }
    }
}

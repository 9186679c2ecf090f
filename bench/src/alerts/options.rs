//! The command line.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Names a part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Every contender evaluates the same readings as fast as it can.
    Drain,
    /// How long alerts take at a given rate.
    Latency,
    /// How long a change of a rule takes.
    Change,
    /// How long a start with very many rules takes.
    Restart,
    /// What open episodes add to a start.
    Restore,
}

/// Measures the evaluation of readings. Run it by `make bench-alerts`, which starts the servers.
#[derive(Debug, Parser)]
#[command(name = "bench-alerts")]
pub(super) struct Options {
    /// The bootstrap address of Kafka.
    #[arg(long, env = "TEST_KAFKA_BOOTSTRAP")]
    pub(super) kafka_bootstrap: String,
    /// Parts that are run.
    #[arg(long, value_delimiter = ',', default_value = "drain,latency,change,restart,restore")]
    pub(super) parts: Vec<Part>,
    /// Sensors that speak in turn, each of which has a rule of its own.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) sensors: u32,
    /// Readings of each drain, one in a hundred of which violates.
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(i64).range(1_000..=1_000_000_000))]
    pub(super) readings: i64,
    /// Rounds of the drain; the table shows their median.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) rounds: u16,
    /// Partitions of readings, alerts and episodes.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(super) partitions: i32,
    /// Threads of Kafka Streams.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) streams_threads: u16,
    /// Commit interval of Kafka Streams, in milliseconds.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) streams_commit_ms: u16,
    /// Readings per second of the latency.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(super) rate: u32,
    /// Length of the latency's run, after its warm-up.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(super) seconds: u32,
    /// Changes of rules that are timed.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) changes: u16,
    /// Rules of the restart.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rules: u32,
    /// Open episodes of each partition in the restore.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) episodes: u32,
    /// Folder of alerting-svc [default: that of this program].
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where logs and the peer's jars are kept.
    #[arg(long, default_value = "target/bench")]
    pub(super) folder: PathBuf,
}

impl Options {
    /// Returns the path of the service's program.
    pub(super) fn alerting(&self) -> PathBuf {
        let name = "alerting-svc";
        match &self.programs {
            Some(folder) => folder.join(name),
            None => std::env::current_exe().unwrap_or_default().with_file_name(name),
        }
    }
}

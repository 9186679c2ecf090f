//! The command line.

use super::contender::Contender;
use clap::{Parser, ValueEnum as _};
use std::fmt;
use std::path::PathBuf;

/// Names a part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Every contender writes the same rows into an empty table.
    Drain,
    /// How long rows take at a given rate.
    Latency,
    /// How long queries take beside a drain.
    Queries,
    /// command-svc drains into tables that hold rows already.
    Fill,
}

impl Part {
    const ALL: [Self; 4] = [Self::Drain, Self::Latency, Self::Queries, Self::Fill];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}

/// Measures the write side. Run it by `make bench-write`, which starts the servers.
#[derive(Debug, Parser)]
#[command(name = "bench-write")]
pub(super) struct Options {
    /// The superuser's URL of PostgreSQL.
    #[arg(long, env = "TEST_DATABASE_URL", hide_env_values = true)]
    pub(super) database_url: String,
    /// The bootstrap address of Kafka.
    #[arg(long, env = "TEST_KAFKA_BOOTSTRAP")]
    pub(super) kafka_bootstrap: String,
    /// Rows of each run.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(i64).range(1_000..=1_000_000_000))]
    pub(super) rows: i64,
    /// Most rows of each run of Kafka Connect, which is slow.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(i64).range(1_000..))]
    connect_rows: i64,
    /// Sensors that the rows are spread over.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) sensors: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub(super) partitions: i32,
    /// Connections of each contender.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) connections: u16,
    /// Rows in a transaction of the contenders that hold their rows in memory.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) batch_rows: u32,
    /// Records in a batch of the Java contenders.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) peer_batch_records: u32,
    /// How often each contender takes its turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) rounds: u16,
    /// All data follows from it.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Contenders, in the order of the first round [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contender>,
    /// What is measured, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// Rows in the tables that part `fill` drains into; 50 million need 20 GB of disk.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000_000, 10_000_000, 50_000_000])]
    pub(super) existing: Vec<i64>,
    /// Rows offered per second in part `latency`.
    #[arg(long, value_delimiter = ',', default_values_t = [5_000, 20_000])]
    pub(super) latency_rates: Vec<u32>,
    /// How long each rate is offered.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(2..=3_600))]
    pub(super) latency_seconds: u16,
    /// The service [default: beside this program].
    #[arg(long)]
    service: Option<PathBuf>,
    /// Another build of the service, to compare with in the same run.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Where logs, the results as far as they are known (`write.txt`), and the Java peers are kept.
    #[arg(long, default_value = "target/bench")]
    pub(super) folder: PathBuf,
}

impl Options {
    pub(super) fn connect_rows(&self) -> i64 {
        self.connect_rows.min(self.rows)
    }

    pub(super) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Returns who takes part in part `drain`.
    pub(super) fn contenders(&self) -> Vec<Contender> {
        if !self.has(Part::Drain) {
            return Vec::new();
        }
        let mut contenders = if self.only.is_empty() { Contender::ALL.to_vec() } else { self.only.clone() };
        if self.baseline.is_some() && !contenders.contains(&Contender::Baseline) {
            contenders.push(Contender::Baseline);
        }
        contenders
    }

    /// Says whether anything drains the topic of readings.
    pub(super) fn needs_readings(&self, contenders: &[Contender]) -> bool {
        let drains =
            |one: &Contender| matches!(one, Contender::Service | Contender::Baseline | Contender::Consumer);
        contenders.iter().any(drains) || self.has(Part::Queries) || self.has(Part::Fill)
    }

    /// Returns the program of ours that a contender runs.
    pub(super) fn program(&self, contender: Contender) -> Option<PathBuf> {
        match contender {
            Contender::Service => Some(self.service()),
            Contender::Baseline => Some(self.baseline()),
            _ => None,
        }
    }

    /// Returns how many rows a contender writes in a run.
    pub(super) fn rows_of(&self, contender: Contender) -> i64 {
        if contender == Contender::Connect { self.connect_rows() } else { self.rows }
    }

    fn service(&self) -> PathBuf {
        self.service.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("command-svc")
        })
    }

    fn baseline(&self) -> PathBuf {
        self.baseline.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_fit_together() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }
}

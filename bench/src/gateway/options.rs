//! The command line.

use clap::Parser;
use std::path::PathBuf;

/// Measures the gateway. Run it by `make bench-gateway`, which starts Kafka.
#[derive(Debug, Parser)]
#[command(name = "bench-gateway")]
pub(super) struct Options {
    /// The bootstrap address of Kafka.
    #[arg(long, env = "TEST_KAFKA_BOOTSTRAP")]
    pub(super) kafka_bootstrap: String,
    /// Messages of each run.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000_000))]
    pub(super) messages: u32,
    /// Connections that publish, each of a device of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) connections: u16,
    /// Messages that each connection has in flight.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) window: u16,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub(super) partitions: i32,
    /// How often each contender takes its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) rounds: u16,
    /// Leaves out the gateway with a spool.
    #[arg(long)]
    pub(super) without_spool: bool,
    /// How long the load of the latency measurement is offered; 0 leaves it out.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(0..=3_600))]
    pub(super) latency_seconds: u16,
    /// That load, in percent of the measured capacity.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) load_percent: u16,
    /// Messages that a device sends at a time in that measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(super) burst: u16,
    /// Connections that do nothing while memory is measured; 0 leaves it out.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(0..=50_000))]
    pub(super) idle: u16,
    /// The gateway [default: beside this program].
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Another build of the gateway, to compare with in the same run.
    #[arg(long)]
    pub(super) baseline: Option<PathBuf>,
    /// Where logs, certificates and the spool are kept.
    #[arg(long, default_value = "target/bench")]
    pub(super) folder: PathBuf,
}

impl Options {
    /// Returns the gateway's program.
    pub(super) fn gateway(&self) -> PathBuf {
        self.gateway.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("gateway")
        })
    }

    /// Returns how many devices there must be.
    pub(super) fn devices(&self) -> u32 {
        u32::from(self.connections.max(self.idle))
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

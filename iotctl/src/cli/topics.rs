//! `iotctl topics`.

use super::from_env;
use crate::topics;
use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum TopicsCommand {
    /// Makes the topics that are not there yet.
    Create {
        /// Partitions of readings, alerts and alert state.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Copies of each partition.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=7))]
        replication_factor: i32,
    },
}

/// Makes the topics on the broker of the environment.
pub(super) async fn run(command: &TopicsCommand) -> Result<()> {
    let TopicsCommand::Create { partitions, replication_factor } = *command;
    let broker = from_env(chassis::kafka::Settings::from_env)?;
    let settings = topics::Settings { broker, partitions, replication: replication_factor };
    let made = topics::create(&settings).await?;
    println!("made {made} of {} topics; the others were there", schema::topics::ALL.len());
    Ok(())
}

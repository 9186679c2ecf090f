//! What evaluating readings costs: readings per second and per CPU-second of alerting-svc, beside a consumer
//! that only consumes, one that also decodes, and the same topology in Kafka Streams; then how long an alert,
//! a change of a rule, and a start take.
//!
//! The service is a process, and only its topics are looked at.

mod bare;
mod drain;
mod latency;
mod options;
mod restore;
mod rules;
mod stage;
mod streams;
mod watch;

use crate::peers::Peers;
use anyhow::{Context as _, Result};
use options::{Options, Part};
use stage::Stage;
use std::process::ExitCode;
use std::sync::Arc;

/// Measures what the arguments ask for and prints the table.
#[must_use]
pub fn main() -> ExitCode {
    crate::main_of("bench-alerts", run)
}

async fn run(mut options: Options) -> Result<()> {
    std::fs::create_dir_all(&options.folder).context("make the folder of logs")?;
    options.folder = options.folder.canonicalize().context("find the folder of logs")?;
    let options = Arc::new(options);
    for part in &options.parts {
        let stage = Stage::set(&options).await?;
        match part {
            Part::Drain => {
                let peers = Peers::streams(&options.folder.join("streams")).await?;
                drain::run(&stage, &peers).await?;
            }
            Part::Latency => latency::at_rate(&stage).await?,
            Part::Change => latency::of_change(&stage).await?,
            Part::Restart => latency::of_start(&stage).await?,
            Part::Restore => restore::of_episodes(&stage).await?,
        }
    }
    Ok(())
}

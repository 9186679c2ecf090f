//! Measurements, as ratios taken side by side in one run on one machine.
//!
//! In:         servers that `iotctl servers run` starts (`--durable` for the write side), release binaries
//!             beside this one, Java peers from Maven.
//! Out:        a table on standard output; progress on standard error.
//! Guarantee:  all data follows from a seed; contenders take turns within each round, so the machine's noise
//!             meets all.
//! On failure: one line that says which contender failed and where its log is. A goal that is missed is no
//!             failure.

use anyhow::{Context, Result};
use clap::Parser;
use std::process::ExitCode;

pub mod alerts;
pub mod cpu;
pub mod gateway;
pub mod memory;
pub mod peers;
pub mod readings;
pub mod rebalance;
pub mod server;
pub mod stats;
pub mod topic;
pub mod write;

/// Runs a measurement with the options of its command line, and says under its name what went wrong.
pub(crate) fn main_of<O, F>(name: &str, run: impl FnOnce(O) -> F) -> ExitCode
where
    O: Parser,
    F: Future<Output = Result<()>>,
{
    let options = O::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(options)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

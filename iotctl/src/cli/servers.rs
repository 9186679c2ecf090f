//! `iotctl servers`.

use crate::progress::Progress;
use crate::servers::run::{self, Given};
use crate::state::State;
use anyhow::Result;
use clap::Subcommand;
use std::ffi::OsString;

#[derive(Debug, Subcommand)]
pub(super) enum ServersCommand {
    /// Runs a command with servers of its own, named by TEST_DATABASE_URL and TEST_KAFKA_BOOTSTRAP.
    Run {
        /// A server to use instead of starting one.
        #[arg(long, env = run::DATABASE_URL, hide_env_values = true)]
        database_url: Option<String>,
        /// A broker to use instead of starting one.
        #[arg(long, env = run::KAFKA_BOOTSTRAP)]
        kafka_bootstrap: Option<String>,
        /// PostgreSQL waits for the disk at each commit, as in production: for measurements.
        #[arg(long)]
        durable: bool,
        /// A setting of the PostgreSQL that is started, as NAME=VALUE.
        #[arg(long = "postgres-setting", value_name = "NAME=VALUE")]
        postgres_settings: Vec<String>,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Runs a command with servers of its own and returns its exit code.
pub(super) async fn run(state: &State, command: ServersCommand, progress: &Progress) -> Result<u8> {
    let ServersCommand::Run { database_url, kafka_bootstrap, durable, postgres_settings, command } = command;
    let given = Given { database_url, kafka_bootstrap, durable, postgres_settings };
    run::run(state, &given, &command, progress).await
}

//! The commands, each with its options in a file of its own.

mod alerts;
mod migrate;
mod operator;
mod pki;
mod servers;
mod silences;
mod simulate;
mod thresholds;
mod token;
mod topics;
mod up;
mod verify;

use crate::progress::Progress;
use crate::state::{Ports, State};
use alerts::AlertsOptions;
use anyhow::{Context as _, Result, bail};
use chassis::config::Env;
use clap::{Parser, Subcommand};
use migrate::MigrateOptions;
use pki::PkiCommand;
use servers::ServersCommand;
use silences::SilencesOptions;
use simulate::SimulateOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use thresholds::ThresholdsOptions;
use token::TokenOptions;
use topics::TopicsCommand;
use up::UpOptions;
use verify::VerifyCommand;

/// Runs and serves a Fieldline installation from the command line.
#[derive(Debug, Parser)]
#[command(name = "iotctl", version)]
struct Arguments {
    /// Shifts every port of the local installation [default: as the running one has it, or 0].
    #[arg(long, env = "FIELDLINE_PORT_OFFSET", global = true)]
    port_offset: Option<u16>,
    /// Folder of everything that a local installation writes [default: the nearest .fieldline].
    #[arg(long, env = "FIELDLINE_STATE", global = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the whole platform with a simulator and runs it until Ctrl-C.
    Up(UpOptions),
    /// Stops a platform that runs in another terminal.
    Down,
    /// Stops it and forgets its certificates, databases, topics and logs.
    Clean,
    /// Publishes as devices that are not there, or replays a file.
    Simulate(SimulateOptions),
    /// Thresholds: what a file says, made so; lists.
    Thresholds(ThresholdsOptions),
    /// Silences: times in which alerts wake nobody.
    Silences(SilencesOptions),
    /// Issues certificates.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Prints a token for the REST interfaces.
    Token(TokenOptions),
    /// Alerts: shown as they come, listed as episodes, acknowledged. Lines on a terminal, JSON in a pipe.
    Alerts(AlertsOptions),
    /// Kafka topics. The broker is named by KAFKA_BOOTSTRAP_SERVERS and the variables that services take
    /// beside it.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Brings a database to this release's schema. It is named by DATABASE_URL_FILE, as services take it; its
    /// user owns the tables.
    Migrate(MigrateOptions),
    /// Audits what is stored; exit code 1 when something is wrong. The database and the broker are named as
    /// for services, or are those of the local installation.
    #[command(subcommand)]
    Verify(VerifyCommand),
    /// Private PostgreSQL and Kafka servers.
    #[command(subcommand)]
    Servers(ServersCommand),
}

/// Runs the command that the arguments name; a failure is printed once, as one line per cause.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    chassis::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(dispatch(arguments));
        // A question that a Kafka client still asks on its own thread holds nobody up.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("iotctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<u8> {
    let named = arguments.state.as_deref();
    let offset = arguments.port_offset;
    let progress = Progress::new();
    match arguments.command {
        Command::Up(options) => {
            let ports = Ports::new(offset.unwrap_or(0))?;
            up::run(&State::open(named)?, ports, options, &progress).await?;
        }
        Command::Down => match State::find(named)? {
            Some(state) => crate::up::down(&state, &progress).await?,
            None => progress.note("nothing runs here"),
        },
        Command::Clean => match State::find(named)? {
            Some(state) => crate::up::clean(&state, &progress).await?,
            None => progress.note("nothing to forget here"),
        },
        Command::Simulate(options) => {
            let state = State::open_installed(named)?;
            let ports = crate::up::ports(&state, offset)?;
            simulate::run(&state, ports, options, &progress).await?;
        }
        Command::Thresholds(options) => return thresholds::run(named, offset, options).await,
        Command::Silences(options) => silences::run(named, offset, options).await?,
        Command::Pki(PkiCommand::Device { name }) => {
            pki::print_device(&State::open_installed(named)?, &name, &progress)?;
        }
        Command::Token(options) => token::run(&State::open_installed(named)?, options, &progress)?,
        Command::Migrate(options) => migrate::run(&options).await?,
        Command::Verify(command) => {
            return verify::run(State::find(named)?.as_ref(), offset, command, &progress).await;
        }
        Command::Alerts(options) => alerts::run(named, offset, options).await?,
        Command::Topics(command) => topics::run(&command).await?,
        Command::Servers(command) => return servers::run(&State::open(named)?, command, &progress).await,
    }
    Ok(0)
}

/// Reads settings as a service reads them.
fn from_env<C>(read: impl FnOnce(&mut Env) -> C) -> Result<C> {
    let mut env = Env::process();
    let settings = read(&mut env);
    env.finish()?;
    Ok(settings)
}

/// Reads a number with the unit `s`, `m`, `h` or `d`.
fn parse_duration(text: &str) -> Result<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let seconds = units
        .iter()
        .find_map(|&(unit, seconds)| text.strip_suffix(unit)?.parse::<u32>().ok()?.checked_mul(seconds));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => bail!("expected a number and s, m, h or d, such as 12h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_fit_together() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn duration_is_a_number_with_a_unit() {
        assert_eq!(parse_duration("12h").unwrap(), Duration::from_secs(43_200));
        for text in ["", "h", "12", "0s", "-1h", "99999999d", "1.5h", "12hh"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}

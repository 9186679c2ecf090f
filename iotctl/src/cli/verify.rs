//! `iotctl verify`.

use crate::progress::Progress;
use crate::state::State;
use crate::verify::{self, Window};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use schema::Timestamp;
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(super) enum VerifyCommand {
    /// Compares the hourly read model with the raw rows and prints every hour that differs.
    Aggregates(WindowOptions),
    /// Compares what the readings topic holds with what the table holds and prints what is missing or double.
    Ledger(WindowOptions),
}

#[derive(Debug, Args)]
pub(super) struct WindowOptions {
    /// Begin of the time to look at: an instant such as 2026-01-31T12:00:00Z, or a UTC day.
    #[arg(long, value_parser = parse_instant)]
    from: Timestamp,
    /// Its end, which is not looked at itself.
    #[arg(long, value_parser = parse_instant)]
    to: Timestamp,
}

/// Audits what is stored; 1 when something is wrong.
pub(super) async fn run(
    state: Option<&State>,
    offset: Option<u16>,
    command: VerifyCommand,
    progress: &Progress,
) -> Result<u8> {
    let mut env = verify::environment(state, offset, progress)?;
    let database = chassis::postgres::Settings::from_env(&mut env);
    let broker = match command {
        VerifyCommand::Aggregates(_) => None,
        VerifyCommand::Ledger(_) => Some(chassis::kafka::Settings::from_env(&mut env)),
    };
    env.finish().context("name what to audit as a service is told, or go where `make up` was run")?;
    let client = database.connect().await?;
    let findings = verify::Findings::new();
    let is_clean = match command {
        VerifyCommand::Aggregates(WindowOptions { from, to }) => {
            let window = Window::new(from, to)?;
            let outcome = verify::aggregates::compare(&client, window, progress, &findings).await?;
            let verify::aggregates::Outcome { compared, differing, lost } = outcome;
            let json = json!({"summary": {"compared": compared, "differing": differing, "lost": lost}});
            let line =
                format!("{compared} hours compared, {differing} differ; {lost} dropped days have lost hours");
            findings.found(&line, &json);
            differing + lost == 0
        }
        VerifyCommand::Ledger(WindowOptions { from, to }) => {
            let broker = broker.context("it was just read")?;
            let window = Window::new(from, to)?;
            let outcome = verify::ledger::compare(&client, &broker, window, progress, &findings).await?;
            findings.found(&outcome.to_string(), &json!({"summary": outcome}));
            outcome.is_clean()
        }
    };
    Ok(u8::from(!is_clean))
}

/// Reads an instant, or a UTC day as its first one.
pub(super) fn parse_instant(text: &str) -> Result<Timestamp> {
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    Timestamp::parse(text).or_else(|_| day()).context("expected 2026-01-31T12:00:00Z or 2026-01-31")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instant_is_rfc_3339_or_a_utc_day() {
        assert_eq!(parse_instant("2026-01-31").unwrap(), parse_instant("2026-01-31T01:00:00+01:00").unwrap());
        for text in ["", "yesterday", "2026-02-30", "2026-01-31T12:00:00"] {
            assert!(parse_instant(text).is_err(), "{text}");
        }
    }
}

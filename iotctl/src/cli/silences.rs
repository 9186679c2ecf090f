//! `iotctl silences`.

use super::operator::{OperatorOptions, all, explained, one, print, query};
use super::parse_duration;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use reqwest_rustls::Method;
use schema::Timestamp;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const PATH: &str = "/api/v1/silences";
const COLUMNS: [&str; 10] = [
    "silenceId",
    "sensorId",
    "deviceType",
    "zoneId",
    "metric",
    "severity",
    "startsAt",
    "endsAt",
    "createdBy",
    "comment",
];

#[derive(Debug, Args)]
pub(super) struct SilencesOptions {
    #[command(flatten)]
    operator: OperatorOptions,
    #[command(subcommand)]
    command: SilencesCommand,
}

#[derive(Debug, Subcommand)]
enum SilencesCommand {
    /// Silences alerts that match everything that is named, from now on.
    Add(AddOptions),
    /// Lists silences, the one that ends last first.
    List {
        /// Those that are pending, active or expired.
        #[arg(long)]
        only: Option<String>,
    },
    /// Ends one now.
    Expire {
        /// Its silenceId.
        id: String,
    },
}

#[derive(Debug, Args)]
struct AddOptions {
    /// Alerts of that sensor.
    #[arg(long)]
    sensor: Option<String>,
    /// Alerts of sensors of that type.
    #[arg(long = "type")]
    device_type: Option<String>,
    /// Alerts of sensors in that zone.
    #[arg(long)]
    zone: Option<String>,
    /// Alerts about that metric.
    #[arg(long)]
    metric: Option<String>,
    /// Alerts of that severity: info, warning or critical.
    #[arg(long)]
    severity: Option<String>,
    /// How long: a number and `s`, `m`, `h` or `d`.
    #[arg(long = "for", value_parser = parse_duration)]
    duration: Duration,
    /// Why.
    #[arg(long)]
    comment: String,
}

/// Runs a command.
pub(super) async fn run(state: Option<&Path>, offset: Option<u16>, options: SilencesOptions) -> Result<()> {
    let api = options.operator.api(state, offset)?;
    match options.command {
        SilencesCommand::Add(options) => {
            let micros = i64::try_from(options.duration.as_micros()).context("read --for")?;
            let ends_at = Timestamp::from_micros(Timestamp::now().as_micros().saturating_add(micros))?;
            let body = json!({"sensorId": options.sensor, "deviceType": options.device_type, "zoneId": options.zone,
                "metric": options.metric, "severity": options.severity, "endsAt": ends_at, "comment": options.comment});
            let url = format!("{}{PATH}", api.thresholds);
            let silence = api.call(Method::POST, &url, Some(&body)).await.map_err(explained)?;
            print(&[silence], &COLUMNS);
        }
        SilencesCommand::List { only } => {
            print(&all(&api, PATH, &query(&[("state", only.as_deref())])).await?, &COLUMNS);
        }
        SilencesCommand::Expire { id } => {
            api.call(Method::DELETE, &one(&api, PATH, &id), None).await.map_err(explained)?;
        }
    }
    Ok(())
}

//! `iotctl alerts`.

use super::from_env;
use super::operator::{OperatorOptions, ReaderOptions, explained, print, query, some};
use crate::alerts::{Filter, follow};
use crate::state::{KAFKA_PORT, State};
use anyhow::{Context as _, Result};
use chassis::kafka::Settings;
use clap::{Args, Subcommand, ValueEnum};
use reqwest_rustls::Method;
use schema::Severity;
use serde_json::json;
use std::path::Path;
use uuid::Uuid;

const PATH: &str = "/api/v1/alerts";
const COLUMNS: [&str; 10] = [
    "episodeId",
    "status",
    "severity",
    "openedAt",
    "closedAt",
    "closingReason",
    "occurrences",
    "acknowledgement/acknowledgedBy",
    "silencedBy",
    "summary",
];
const ACKNOWLEDGEMENT_COLUMNS: [&str; 4] = ["episodeId", "acknowledgedBy", "acknowledgedAt", "note"];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct AlertsOptions {
    /// Shows what comes from now on, until Ctrl-C. The broker is named as for services, or is that of the
    /// local installation.
    #[arg(long, required = true)]
    follow: bool,
    /// Begins with what the topic still has.
    #[arg(long)]
    from_beginning: bool,
    /// Alerts of one sensor alone.
    #[arg(long)]
    sensor: Option<String>,
    /// Alerts of one severity alone.
    #[arg(long, value_enum)]
    severity: Option<Level>,
    #[command(subcommand)]
    command: Option<AlertsCommand>,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// Lists episodes, the newest first: a sensor's violation of a threshold from its opening to its end is
    /// one.
    List(ListOptions),
    /// Says that you have taken note of an episode; it silences nothing.
    Ack(AckOptions),
}

#[derive(Debug, Args)]
struct ListOptions {
    #[command(flatten)]
    reader: ReaderOptions,
    /// Those that are open or closed.
    #[arg(long)]
    only: Option<String>,
    /// Of that sensor.
    #[arg(long)]
    sensor: Option<String>,
    /// Of sensors of that type.
    #[arg(long = "type")]
    device_type: Option<String>,
    /// Of sensors in that zone.
    #[arg(long)]
    zone: Option<String>,
    /// About that metric.
    #[arg(long)]
    metric: Option<String>,
    /// Of that severity: info, warning or critical.
    #[arg(long)]
    severity: Option<String>,
    /// Of that thresholdId.
    #[arg(long)]
    threshold: Option<String>,
    /// Opened at that instant or later, RFC 3339.
    #[arg(long)]
    from: Option<String>,
    /// Opened before that instant, RFC 3339.
    #[arg(long)]
    to: Option<String>,
    /// Those that somebody has taken note of (true), or nobody (false).
    #[arg(long)]
    acknowledged: Option<bool>,
    /// Those that a silence covers (true), or none (false).
    #[arg(long)]
    silenced: Option<bool>,
    /// Most episodes.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
struct AckOptions {
    #[command(flatten)]
    operator: OperatorOptions,
    /// Its episodeId.
    id: Uuid,
    /// What others should know.
    #[arg(long)]
    note: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warning,
    /// Worth waking somebody.
    Critical,
}

/// Runs a command.
pub(super) async fn run(state: Option<&Path>, offset: Option<u16>, options: AlertsOptions) -> Result<()> {
    match options.command {
        Some(AlertsCommand::List(options)) => list(state, offset, options).await,
        Some(AlertsCommand::Ack(options)) => acknowledge(state, offset, options).await,
        None => show(State::find(state)?.as_ref(), offset, options).await,
    }
}

async fn list(state: Option<&Path>, offset: Option<u16>, options: ListOptions) -> Result<()> {
    let (acknowledged, silenced) =
        (options.acknowledged.map(|is| is.to_string()), options.silenced.map(|is| is.to_string()));
    let query = query(&[
        ("state", options.only.as_deref()),
        ("sensorId", options.sensor.as_deref()),
        ("deviceType", options.device_type.as_deref()),
        ("zoneId", options.zone.as_deref()),
        ("metric", options.metric.as_deref()),
        ("severity", options.severity.as_deref()),
        ("thresholdId", options.threshold.as_deref()),
        ("from", options.from.as_deref()),
        ("to", options.to.as_deref()),
        ("acknowledged", acknowledged.as_deref()),
        ("silenced", silenced.as_deref()),
    ]);
    let api = options.reader.api(state, offset)?;
    let list = format!("{}{PATH}", api.queries);
    print(&some(&api, &list, &query, options.limit).await?, &COLUMNS);
    Ok(())
}

async fn acknowledge(state: Option<&Path>, offset: Option<u16>, options: AckOptions) -> Result<()> {
    let api = options.operator.api(state, offset)?;
    let url = format!("{}{PATH}/{}/acknowledgement", api.thresholds, options.id);
    let body = options.note.map_or_else(|| json!({}), |note| json!({ "note": note }));
    let acknowledgement = api.call(Method::POST, &url, Some(&body)).await.map_err(explained)?;
    print(&[acknowledgement], &ACKNOWLEDGEMENT_COLUMNS);
    Ok(())
}

/// Shows alerts; the broker is named as for services, or is that of the local installation.
async fn show(state: Option<&State>, offset: Option<u16>, options: AlertsOptions) -> Result<()> {
    let is_named = std::env::var_os("KAFKA_BOOTSTRAP_SERVERS").is_some();
    let broker = match state.filter(|_| !is_named) {
        Some(state) => {
            let port = crate::up::ports(state, offset)?.at(KAFKA_PORT);
            Settings::local(format!("127.0.0.1:{port}"), "")
        }
        None => from_env(Settings::from_env)
            .context("name the broker as a service is told, or go where `make up` was run")?,
    };
    let severity = options.severity.map(|level| match level {
        Level::Info => Severity::Info,
        Level::Warning => Severity::Warning,
        Level::Critical => Severity::Critical,
    });
    let filter = Filter { sensor_id: options.sensor, severity };
    follow(&broker, &filter, options.from_beginning).await
}

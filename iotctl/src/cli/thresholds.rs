//! `iotctl thresholds`.

mod backtest;

use super::operator::{OperatorOptions, all, explained, one, print, query};
use crate::api::Api;
use crate::thresholds::file::Rules;
use crate::thresholds::{self, Step};
use crate::verify::Findings;
use anyhow::{Result, bail};
use backtest::BacktestOptions;
use clap::{Args, Subcommand};
use reqwest_rustls::Method;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Exit code of a plan that has something to do.
const TO_DO: u8 = 2;
const PATH: &str = "/api/v1/thresholds";
const COLUMNS: [&str; 11] = [
    "thresholdId",
    "sensorId",
    "deviceType",
    "zoneId",
    "metric",
    "min",
    "max",
    "noDataSeconds",
    "severity",
    "mode",
    "description",
];

#[derive(Debug, Args)]
pub(super) struct ThresholdsOptions {
    #[command(flatten)]
    operator: OperatorOptions,
    #[command(subcommand)]
    command: ThresholdsCommand,
}

#[derive(Debug, Subcommand)]
enum ThresholdsCommand {
    /// Makes the thresholds of a file's owner what the file says: all of them, or none.
    Apply(ApplyOptions),
    /// Lists thresholds.
    List(ListOptions),
    /// Prints one.
    Get {
        /// Its thresholdId.
        id: String,
    },
    /// Deletes one.
    Delete {
        /// Its thresholdId.
        id: String,
    },
    /// Says what a threshold would have said of the readings that are stored. Nothing is changed.
    Backtest(BacktestOptions),
}

#[derive(Debug, Args)]
struct ApplyOptions {
    /// The file of rules, YAML.
    #[arg(short, long)]
    file: PathBuf,
    /// Only says what there is to do; exit code 2 when there is something.
    #[arg(long)]
    plan: bool,
    /// Also deletes the thresholds of the file's owner that the file does not name any more.
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, Args)]
struct ListOptions {
    /// Of that sensor.
    #[arg(long)]
    sensor: Option<String>,
    /// Of that device type.
    #[arg(long = "type")]
    device_type: Option<String>,
    /// Of that zone.
    #[arg(long)]
    zone: Option<String>,
    /// Of that metric.
    #[arg(long)]
    metric: Option<String>,
    /// Of that severity: info, warning or critical.
    #[arg(long)]
    severity: Option<String>,
    /// Of that mode: off, shadow or live.
    #[arg(long)]
    mode: Option<String>,
}

/// Runs a command; 2 when a plan has something to do.
pub(super) async fn run(state: Option<&Path>, offset: Option<u16>, options: ThresholdsOptions) -> Result<u8> {
    let api = options.operator.api(state, offset)?;
    match options.command {
        ThresholdsCommand::Apply(options) => return apply(&api, &options).await,
        ThresholdsCommand::List(options) => {
            let query = query(&[
                ("sensorId", options.sensor.as_deref()),
                ("deviceType", options.device_type.as_deref()),
                ("zoneId", options.zone.as_deref()),
                ("metric", options.metric.as_deref()),
                ("severity", options.severity.as_deref()),
                ("mode", options.mode.as_deref()),
            ]);
            print(&all(&api, PATH, &query).await?, &COLUMNS);
        }
        ThresholdsCommand::Get { id } => {
            let threshold = api.get(&one(&api, PATH, &id)).await.map_err(explained)?;
            println!("{}", serde_json::to_string_pretty(&threshold)?);
        }
        ThresholdsCommand::Delete { id } => {
            api.call(Method::DELETE, &one(&api, PATH, &id), None).await.map_err(explained)?;
        }
        ThresholdsCommand::Backtest(options) => backtest::run(&api, &options).await?,
    }
    Ok(0)
}

fn rules(file: &Path) -> Result<Rules> {
    let text = crate::files::read(file)?;
    match Rules::parse(&text) {
        Ok(rules) => Ok(rules),
        Err(problems) => bail!("{}:\n{problems}", file.display()),
    }
}

async fn apply(api: &Api, options: &ApplyOptions) -> Result<u8> {
    let rules = rules(&options.file)?;
    // The service looks at all of it, so that a plan that can be seen can be applied.
    thresholds::apply(api, &rules, options.prune, true).await?;
    let there = thresholds::owned(api, &rules).await?;
    let steps = thresholds::plan(&rules, &there, options.prune);
    let findings = Findings::new();
    for step in &steps {
        findings.found(&step.text(), &json!(step));
    }
    if options.plan {
        let line = format!("{} to do; nothing was changed", count(&steps));
        findings.found(&line, &json!({"summary": {"toDo": steps.len()}}));
        return Ok(if steps.is_empty() { 0 } else { TO_DO });
    }
    let done = if steps.is_empty() {
        json!({"created": 0, "changed": 0, "deleted": 0, "unchanged": rules.rules.len()})
    } else {
        let mut done = thresholds::apply(api, &rules, options.prune, false).await?;
        if let Some(done) = done.as_object_mut() {
            done.remove("lines");
        }
        done
    };
    let line = format!(
        "{} created, {} changed, {} deleted, {} as they were",
        done["created"], done["changed"], done["deleted"], done["unchanged"]
    );
    findings.found(&line, &json!({ "summary": done }));
    Ok(0)
}

fn count(steps: &[Step]) -> String {
    match steps.len() {
        1 => "1 step".to_owned(),
        count => format!("{count} steps"),
    }
}

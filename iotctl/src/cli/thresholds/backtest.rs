//! `iotctl thresholds backtest`.

use super::super::operator::{explained, one, print_table};
use super::super::parse_duration;
use super::super::verify::parse_instant;
use super::{PATH, rules};
use crate::api::{Api, Refusal};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use reqwest_rustls::{Method, StatusCode};
use schema::Timestamp;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is summed up of each set of thresholds, as it is named in the answer.
const SUMS: [&str; 5] = ["episodes", "alerts", "secondsInAlarm", "flaps", "openAtEnd"];
/// The sets, and what a person calls them.
const SETS: [(&str, &str); 3] =
    [("tested", "this threshold"), ("inForce", "what is in force"), ("ifSaved", "both together")];
const COLUMNS: [&str; 6] = ["sensorId", "openedAt", "closedAt", "reason", "value", "occurrences"];

#[derive(Debug, Args)]
pub(super) struct BacktestOptions {
    /// The thresholdId of a stored one; one in shadow, say.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<String>,
    /// A file of rules, YAML. A rule that is stored already is tested in the place of what is stored.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Name of the rule, where the file has several.
    #[arg(long, requires = "file")]
    name: Option<String>,
    /// Begin of the range: an instant such as 2026-01-31T12:00:00Z, or a UTC day [default: --last before its
    /// end].
    #[arg(long, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Its end [default: now].
    #[arg(long, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// Length of the range: 12h, say.
    #[arg(long, value_parser = parse_duration, default_value = "24h", conflicts_with = "from")]
    last: Duration,
    /// Only that sensor.
    #[arg(long)]
    sensor: Option<String>,
    /// Only sensors of that device type.
    #[arg(long = "type")]
    device_type: Option<String>,
    /// Only sensors of that zone.
    #[arg(long)]
    zone: Option<String>,
}

/// Asks what a threshold would have said, and prints it: tables for people, a line of JSON for programs.
pub(super) async fn run(api: &Api, options: &BacktestOptions) -> Result<()> {
    let to = options.to.unwrap_or_else(Timestamp::now);
    let from = match options.from {
        Some(from) => from,
        None => {
            let micros = i64::try_from(options.last.as_micros()).context("read --last")?;
            Timestamp::from_micros(to.as_micros().saturating_sub(micros)).context("read --last")?
        }
    };
    let mut body = json!({"from": from, "to": to, "sensorId": options.sensor,
        "deviceType": options.device_type, "zoneId": options.zone});
    match &options.file {
        Some(file) => {
            let (id, threshold) = rule(file, options.name.as_deref())?;
            if is_stored(api, &id).await? {
                body["thresholdId"] = json!(id);
            }
            body["threshold"] = threshold;
        }
        None => body["thresholdId"] = json!(options.id),
    }
    let url = format!("{}{PATH}/backtest", api.thresholds);
    let report = api.call(Method::POST, &url, Some(&body)).await.map_err(explained)?;
    if std::io::stdout().is_terminal() {
        show(&report);
    } else {
        // The reader may stop reading.
        let _ = writeln!(std::io::stdout(), "{report}");
    }
    Ok(())
}

/// Returns the id and the fields of the rule that is meant.
fn rule(file: &Path, name: Option<&str>) -> Result<(String, Value)> {
    let rules = rules(file)?;
    let rule = match (name, rules.rules.as_slice()) {
        (None, [only]) => only,
        (None, _) => bail!("{} has not exactly one rule: --name says which", file.display()),
        (Some(name), all) => {
            let named = all.iter().find(|rule| rule.name == name);
            named.with_context(|| format!("{} has no rule {name}", file.display()))?
        }
    };
    Ok((rules.id(rule).to_string(), Value::Object(rule.fields.clone())))
}

async fn is_stored(api: &Api, id: &str) -> Result<bool> {
    match api.get(&one(api, PATH, id)).await {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(false),
            _ => Err(explained(error)),
        },
    }
}

/// Writes the report for a person.
fn show(report: &Value) {
    let words = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let mut head = format!(
        "{} values of {} sensors, {} to {}",
        report["readings"],
        report["sensors"],
        words("from"),
        words("until")
    );
    if report["truncated"] == true {
        head.push_str(", where a bound was met: take a shorter range, or fewer sensors");
    }
    println!("{head}\n");
    let sums = SETS.map(|(set, called)| {
        let mut sums = report[set].clone();
        sums[""] = json!(called);
        sums
    });
    print_table(&sums, &[&[""], &SUMS[..]].concat());
    let difference = &report["difference"];
    let (added, gone, kept) = (&difference["added"], &difference["gone"], &difference["kept"]);
    println!("\nIf it is saved, {added} episodes come, {gone} go and {kept} stay.");
    let episodes = report["episodes"].as_array().map_or(&[][..], Vec::as_slice);
    if !episodes.is_empty() {
        println!();
        print_table(episodes, &COLUMNS);
    }
    let all = report["tested"]["episodes"].as_u64().unwrap_or_default();
    let left = all.saturating_sub(u64::try_from(episodes.len()).unwrap_or(u64::MAX));
    if left > 0 {
        println!("and {left} more");
    }
}

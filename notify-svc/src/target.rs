//! The file of targets: who is told what, and how. Secrets are in files of their own.

use crate::payload::Format;
use chassis::config::{Env, Secret};
use schema::{Alert, EpisodeStep, Severity, Status};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::{Host, Url};

/// Most targets: each has a consumer of its own.
const TARGETS_MAX: usize = 16;
/// Longest name; it is part of metrics and of a consumer group.
const NAME_BYTES_MAX: usize = 32;

/// Says who is told, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name: a letter, then letters, digits and `_`.
    pub name: String,
    /// Where it listens; perhaps a secret.
    pub url: Secret,
    /// What it takes.
    pub format: Format,
    /// Which alerts it hears.
    pub matcher: Matcher,
    /// Authorities that its certificate must chain to; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Key of the signature; none: unsigned.
    pub hmac_key: Option<Secret>,
    /// PagerDuty's key of the service.
    pub routing_key: Secret,
    /// Timeout of a call.
    pub call_max: Duration,
    /// Calls in a minute, after a pause twice as many.
    pub per_minute_max: u32,
    /// Age of an alert at which it is given up, as a dead letter.
    pub age_max: Duration,
}

/// Says which alerts a target hears: every part that is not empty must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    severities: BTreeSet<&'static str>,
    zones: BTreeSet<String>,
    device_types: BTreeSet<String>,
    hears_continuing: bool,
    hears_silenced: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    targets: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    name: String,
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    format: Format,
    #[serde(default)]
    severities: Vec<Severity>,
    #[serde(default)]
    zones: BTreeSet<String>,
    #[serde(default)]
    device_types: BTreeSet<String>,
    #[serde(default)]
    continuing: bool,
    #[serde(default)]
    silenced: bool,
    hmac_key_file: Option<PathBuf>,
    routing_key_file: Option<PathBuf>,
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
    #[serde(default = "default_per_minute_max")]
    per_minute_max: u32,
    #[serde(default = "default_give_up_seconds")]
    give_up_seconds: u64,
}

const fn default_timeout_ms() -> u64 {
    10_000
}

const fn default_per_minute_max() -> u32 {
    600
}

const fn default_give_up_seconds() -> u64 {
    86_400
}

impl Matcher {
    /// Says whether the alert is for it.
    pub fn hears(&self, alert: &Alert) -> bool {
        let has = |wanted: &BTreeSet<String>, found: &String| wanted.is_empty() || wanted.contains(found);
        let is_continuing = alert.episode == Some(EpisodeStep::Continuing) && alert.status == Status::Firing;
        (self.hears_continuing || !is_continuing)
            && (self.hears_silenced || alert.silenced_by.is_none())
            && (self.severities.is_empty() || self.severities.contains(alert.severity.as_str()))
            && has(&self.zones, &alert.zone_id)
            && has(&self.device_types, &alert.device_type)
    }
}

/// Reads `TARGETS_FILE`, and reports every problem with it.
pub(crate) fn targets(env: &mut Env) -> Vec<Target> {
    let path = env.path("TARGETS_FILE");
    if !path.is_file() {
        return Vec::new(); // reported
    }
    let read = std::fs::read(&path).map_err(|error| error.to_string());
    let file: File = match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())) {
        Ok(file) => file,
        Err(error) => {
            env.problem(format!("TARGETS_FILE: {error}"));
            return Vec::new();
        }
    };
    if file.targets.is_empty() || file.targets.len() > TARGETS_MAX {
        env.problem(format!("TARGETS_FILE: must name 1 to {TARGETS_MAX} targets"));
    }
    let mut names = BTreeSet::new();
    let mut targets = Vec::new();
    for written in file.targets {
        if !names.insert(written.name.to_lowercase()) {
            env.problem(format!("TARGETS_FILE: two targets have the name {}", written.name));
        }
        let mut problem = |clause: String| env.problem(clause);
        targets.push(target(written, &mut problem));
    }
    targets
}

fn target(written: Written, report: &mut dyn FnMut(String)) -> Target {
    let name = written.name;
    let mut problem = |clause: &str| report(format!("TARGETS_FILE: target {name}: {clause}"));
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_');
    if !is_name {
        problem("name must be a letter, then letters, digits and _, 32 at most");
    }
    let url = match (written.url, written.url_file) {
        (Some(url), None) => Secret::new(url),
        (None, Some(file)) => secret(&file, "urlFile", &mut problem),
        _ => {
            problem("must have url or urlFile");
            Secret::new("")
        }
    };
    if !url.expose().is_empty() && !is_safe(url.expose()) {
        problem("url must be https, or http to this host");
    }
    if (written.format == Format::Pagerduty) != written.routing_key_file.is_some() {
        problem("routingKeyFile belongs to format pagerduty, which needs it");
    }
    let mut hold = |name: &str, value: u64, bounds: std::ops::RangeInclusive<u64>| {
        if !bounds.contains(&value) {
            problem(&format!("{name} must be from {} to {}", bounds.start(), bounds.end()));
        }
    };
    hold("timeoutMs", written.timeout_ms, 100..=120_000);
    hold("perMinuteMax", written.per_minute_max.into(), 1..=60_000);
    // The topic has an alert for 30 days.
    hold("giveUpSeconds", written.give_up_seconds, 10..=2_592_000);
    if written.ca_file.as_ref().is_some_and(|file| !file.is_file()) {
        problem("caFile must name a file");
    }
    Target {
        url,
        ca_file: written.ca_file,
        format: written.format,
        matcher: Matcher {
            severities: written.severities.iter().map(|severity| severity.as_str()).collect(),
            zones: written.zones,
            device_types: written.device_types,
            hears_continuing: written.continuing,
            hears_silenced: written.silenced,
        },
        hmac_key: written.hmac_key_file.map(|file| secret(&file, "hmacKeyFile", &mut problem)),
        routing_key: written
            .routing_key_file
            .map_or_else(|| Secret::new(""), |file| secret(&file, "routingKeyFile", &mut problem)),
        call_max: Duration::from_millis(written.timeout_ms),
        per_minute_max: written.per_minute_max,
        age_max: Duration::from_secs(written.give_up_seconds),
        name,
    }
}

fn secret(file: &Path, field: &str, problem: &mut dyn FnMut(&str)) -> Secret {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        problem(&format!("{field} names {}, which cannot be read or is empty", file.display()));
    }
    Secret::new(text)
}

/// Says whether nobody on the way can read along.
fn is_safe(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(Host::Ipv6(ip))) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;

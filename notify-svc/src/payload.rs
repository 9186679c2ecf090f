//! An alert → the body that a target takes. Pure.

mod alertmanager;
mod pagerduty;
mod slack;

use schema::{Alert, Limit, Severity, Status};
use serde::Deserialize;

/// Names what a target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The alert as it is in Kafka.
    Json,
    /// An incoming webhook of Slack, or of what speaks like it.
    Slack,
    /// PagerDuty Events API v2.
    Pagerduty,
    /// Alertmanager API v2, `/api/v2/alerts`.
    Alertmanager,
}

/// Writes the body for an alert; `record` is its value in Kafka, `routing_key` PagerDuty's.
pub fn body(format: Format, alert: &Alert, record: &[u8], routing_key: &str) -> Vec<u8> {
    let body = match format {
        Format::Json => return record.to_vec(),
        Format::Slack => slack::body(alert),
        Format::Pagerduty => pagerduty::body(alert, routing_key),
        Format::Alertmanager => alertmanager::body(alert),
    };
    body.to_string().into_bytes()
}

fn is_closed(alert: &Alert) -> bool {
    alert.status == Status::Resolved
}

/// Returns one line for a person.
fn summary(alert: &Alert) -> String {
    if let Some(summary) = &alert.summary {
        return summary.clone();
    }
    let (name, metric) = (alert.display_name.as_deref().unwrap_or(&alert.sensor_id), &alert.metric);
    let unit = alert.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
    let value = alert.value.map(|value| format!(" is {value}{unit}")).unwrap_or_default();
    let bound = alert.bound.value;
    match (is_closed(alert), alert.bound.limit) {
        (true, _) => format!("{name}: {metric}{value}, resolved"),
        (false, Limit::Max) => format!("{name}: {metric}{value}, above {bound}{unit}"),
        (false, Limit::Min) => format!("{name}: {metric}{value}, below {bound}{unit}"),
        (false, Limit::NoData) => format!("{name}: no {metric} for more than {bound} s"),
    }
}

/// Returns what makes alerts of one episode the same to a target: the episode, and without one threshold and
/// sensor, which have one episode at a time.
pub(crate) fn episode_of(alert: &Alert) -> String {
    match alert.episode_id {
        Some(id) => id.to_string(),
        None => format!("{}/{}", alert.threshold_id, alert.sensor_id),
    }
}

const fn is_critical(severity: Severity) -> bool {
    matches!(severity, Severity::Critical)
}

#[cfg(test)]
mod tests;

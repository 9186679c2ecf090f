//! Incoming webhooks: a line, and fields beside a bar of colour. Source: docs.slack.dev, "Sending messages
//! using incoming webhooks" and "Legacy message attachments".

use super::{is_closed, is_critical, summary};
use schema::{Alert, Severity};
use serde_json::{Value, json};

pub(super) fn body(alert: &Alert) -> Value {
    let (word, colour) = match (is_closed(alert), alert.severity) {
        (true, _) => ("Resolved", "#2eb67d"),
        (false, Severity::Critical) => ("Critical", "#e01e5a"),
        (false, Severity::Warning) => ("Warning", "#ecb22e"),
        (false, Severity::Info) => ("Info", "#36c5f0"),
    };
    let mark = if is_critical(alert.severity) && !is_closed(alert) { "*" } else { "" };
    let text = format!("{mark}{word}{mark}: {}", escape(&summary(alert)));
    let field = |title: &str, value: &str| json!({"title": title, "value": escape(value), "short": true});
    let mut fields = vec![
        field("Sensor", &alert.sensor_id),
        field("Zone", &alert.zone_id),
        field("Type", &alert.device_type),
        field("Since", &alert.opened_at.unwrap_or(alert.reading_at).to_string()),
    ];
    fields.extend(alert.description.as_deref().map(|description| field("Rule", description)));
    json!({"text": text, "attachments": [{"color": colour, "fallback": text, "fields": fields}]})
}

/// Replaces the three characters that mean something to Slack.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

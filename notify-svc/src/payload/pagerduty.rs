//! Events API v2: an episode is an incident, by its deduplication key. Source: developer.pagerduty.com,
//! "Send an Alert Event".

use super::{episode_of, is_closed, summary};
use schema::Alert;
use serde_json::{Value, json};

/// Longest summary that is taken, in characters.
const SUMMARY_CHARS_MAX: usize = 1_024;

pub(super) fn body(alert: &Alert, routing_key: &str) -> Value {
    let summary: String = summary(alert).chars().take(SUMMARY_CHARS_MAX).collect();
    json!({
        "routing_key": routing_key,
        "event_action": if is_closed(alert) { "resolve" } else { "trigger" },
        "dedup_key": episode_of(alert),
        "payload": {
            "summary": summary,
            "source": alert.sensor_id,
            "severity": alert.severity.as_str(),
            "timestamp": alert.reading_at,
            "component": alert.metric,
            "group": alert.zone_id,
            "class": alert.device_type,
            "custom_details": alert,
        },
    })
}

//! API v2: labels that name the episode's place, and when it ends. Source: Alertmanager's `openapi.yaml`,
//! `postableAlerts`.

use super::{is_closed, summary};
use schema::{Alert, Timestamp};
use serde_json::{Value, json};

/// Time for which Alertmanager believes in an open episode that is told only once: that of the topic. Without
/// an end it would resolve it after minutes.
const OPEN_MICROS: i64 = 30 * 24 * 3_600 * 1_000_000;

pub(super) fn body(alert: &Alert) -> Value {
    let starts_at = alert.opened_at.unwrap_or(alert.reading_at);
    let ends_at = if is_closed(alert) {
        alert.detected_at
    } else {
        // Only the last month of the year 9999 has no such end.
        Timestamp::from_micros(alert.detected_at.as_micros() + OPEN_MICROS).unwrap_or(alert.detected_at)
    };
    json!([{
        "labels": {
            "alertname": format!("fieldline_{}", alert.metric),
            "severity": alert.severity.as_str(),
            "sensor": alert.sensor_id,
            "metric": alert.metric,
            "zone": alert.zone_id,
            "device_type": alert.device_type,
            "threshold": alert.threshold_id,
        },
        "annotations": {
            "summary": summary(alert),
            "description": alert.description.as_deref().unwrap_or_default(),
        },
        "startsAt": starts_at,
        "endsAt": ends_at,
    }])
}

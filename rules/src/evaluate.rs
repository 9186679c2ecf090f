//! One reading against the thresholds that apply to it. Pure.

use schema::{Alert, Bound, Limit, ReadingCreatedEvent, Status, ThresholdRow, Timestamp};

/// Evaluates a reading: each value against each enabled threshold of its metric.
///
/// Shape: at most one alert per threshold, in the order of `thresholds`; `min` is looked at before `max`.
/// Without episodes every violating reading speaks, and nothing is ever resolved: `status` is always `firing`.
pub fn evaluate<'a>(
    reading: &ReadingCreatedEvent,
    thresholds: impl IntoIterator<Item = &'a ThresholdRow>,
    detected_at: Timestamp,
) -> Vec<Alert> {
    thresholds
        .into_iter()
        .filter(|threshold| threshold.enabled && threshold.sensor_id == reading.sensor_id)
        .filter_map(|threshold| {
            let value = *reading.values.get(&threshold.metric)?;
            let bound = violated(threshold, value)?;
            Some(alert(reading, threshold, value, bound, detected_at))
        })
        .collect()
}

/// Returns the limit that a value is beyond. A value on the limit is inside.
fn violated(threshold: &ThresholdRow, value: f64) -> Option<Bound> {
    let below = threshold.min_value.filter(|min| value < *min);
    let above = threshold.max_value.filter(|max| value > *max);
    below
        .map(|value| Bound { limit: Limit::Min, value })
        .or(above.map(|value| Bound { limit: Limit::Max, value }))
}

fn alert(
    reading: &ReadingCreatedEvent,
    threshold: &ThresholdRow,
    value: f64,
    bound: Bound,
    detected_at: Timestamp,
) -> Alert {
    Alert {
        alert_id: Alert::id(threshold.threshold_id, threshold.version, reading.event_id),
        status: Status::Firing,
        sensor_id: reading.sensor_id.clone(),
        metric: threshold.metric.clone(),
        value,
        bound,
        severity: threshold.severity,
        threshold_id: threshold.threshold_id,
        threshold_version: threshold.version,
        reading_at: reading.reading_at,
        detected_at,
        zone_id: reading.zone_id.clone(),
        device_type: reading.device_type.clone(),
        event_id: reading.event_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schema::Severity;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn reading(value: f64) -> ReadingCreatedEvent {
        let at = Timestamp::parse("2026-01-02T03:04:05Z").unwrap();
        ReadingCreatedEvent {
            event_id: Uuid::from_u128(1),
            sensor_id: "s".to_owned(),
            device_type: "THERMOSTAT".to_owned(),
            zone_id: "zone".to_owned(),
            values: BTreeMap::from([("temperature".to_owned(), value)]),
            attributes: serde_json::Map::new(),
            reading_at: at,
            received_at: at,
        }
    }

    fn threshold(min_value: Option<f64>, max_value: Option<f64>) -> ThresholdRow {
        let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        ThresholdRow {
            threshold_id: Uuid::from_u128(2),
            sensor_id: "s".to_owned(),
            metric: "temperature".to_owned(),
            min_value,
            max_value,
            severity: Severity::Warning,
            enabled: true,
            description: String::new(),
            version: 3,
            created_at: at,
            updated_at: at,
        }
    }

    fn bounds(value: f64, threshold: &ThresholdRow) -> Vec<Bound> {
        let now = Timestamp::parse("2026-01-02T03:04:06Z").unwrap();
        evaluate(&reading(value), [threshold], now).into_iter().map(|alert| alert.bound).collect()
    }

    #[test]
    fn value_beyond_a_limit_fires_and_a_value_on_it_does_not() {
        let range = threshold(Some(10.0), Some(30.0));
        assert_eq!(bounds(9.9, &range), [Bound { limit: Limit::Min, value: 10.0 }]);
        assert_eq!(bounds(30.1, &range), [Bound { limit: Limit::Max, value: 30.0 }]);
        for inside in [10.0, 20.0, 30.0] {
            assert_eq!(bounds(inside, &range), []);
        }
    }

    #[test]
    fn disabled_threshold_and_thresholds_of_others_never_fire() {
        let max = threshold(None, Some(30.0));
        for silent in [
            ThresholdRow { enabled: false, ..max.clone() },
            ThresholdRow { sensor_id: "t".to_owned(), ..max.clone() },
            ThresholdRow { metric: "humidity".to_owned(), ..max.clone() },
        ] {
            assert_eq!(bounds(99.0, &silent), []);
        }
    }

    #[test]
    fn alert_says_what_met_what() {
        let now = Timestamp::parse("2026-01-02T03:04:06Z").unwrap();
        let (reading, threshold) = (reading(31.5), threshold(None, Some(30.0)));
        let [alert] = &evaluate(&reading, [&threshold], now)[..] else { panic!("one alert") };
        assert_eq!(alert.alert_id, Alert::id(threshold.threshold_id, 3, reading.event_id));
        assert_eq!((alert.status, alert.value, alert.detected_at), (Status::Firing, 31.5, now));
        assert_eq!((alert.threshold_version, alert.event_id), (3, reading.event_id));
        assert_eq!((alert.zone_id.as_str(), alert.device_type.as_str()), ("zone", "THERMOSTAT"));
    }

    proptest! {
        #[test]
        fn any_value_fires_exactly_when_it_is_outside(
            value in proptest::num::f64::NORMAL,
            min in proptest::option::of(-1e6..1e6),
            max in proptest::option::of(-1e6..1e6),
        ) {
            let outside = min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max);
            prop_assert_eq!(!bounds(value, &threshold(min, max)).is_empty(), outside);
        }
    }
}

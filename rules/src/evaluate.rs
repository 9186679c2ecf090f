//! One reading against the thresholds that apply to it. Pure.

use crate::DedupKey;
use schema::{Alert, Bound, Limit, Mode, ReadingCreatedEvent, Reason, Status, ThresholdRow, Timestamp};

/// One value of a reading that is beyond a limit of one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Violation<'a> {
    /// The threshold; its mode says what becomes of the violation.
    pub threshold: &'a ThresholdRow,
    /// The value.
    pub value: f64,
    /// The limit that it is beyond.
    pub bound: Bound,
}

/// Evaluates a reading: each value against each threshold of its metric that covers the sensor and is not
/// off.
///
/// Shape: at most one violation per threshold, in the order of `thresholds`; `min` is looked at before `max`.
pub fn evaluate<'a>(
    reading: &ReadingCreatedEvent,
    thresholds: impl IntoIterator<Item = &'a ThresholdRow>,
) -> impl Iterator<Item = Violation<'a>> {
    let covers = |threshold: &ThresholdRow| {
        threshold.scope.covers(&reading.sensor_id, &reading.zone_id, &reading.device_type)
    };
    thresholds
        .into_iter()
        .filter(move |threshold| threshold.mode != Mode::Off && covers(threshold))
        .filter_map(|threshold| {
            let value = *reading.values.get(&threshold.metric)?;
            Some(Violation { threshold, value, bound: violated(threshold, value)? })
        })
}

impl Violation<'_> {
    /// Returns what its alert is deduplicated by.
    pub fn key(&self, reading: &ReadingCreatedEvent) -> DedupKey {
        DedupKey { threshold_id: self.threshold.threshold_id, event_id: reading.event_id }
    }

    /// Makes the alert. Without episodes every violating reading speaks, and nothing is ever resolved:
    /// `status` is always `firing`.
    pub fn alert(&self, reading: &ReadingCreatedEvent, detected_at: Timestamp) -> Alert {
        let Self { threshold, value, bound } = *self;
        Alert {
            alert_id: Alert::id(threshold.threshold_id, threshold.version, reading.event_id),
            status: Status::Firing,
            episode_id: None,
            episode: None,
            reason: Some(reason(bound.limit)),
            sensor_id: reading.sensor_id.clone(),
            display_name: None,
            metric: threshold.metric.clone(),
            unit: None,
            value: Some(value),
            bound,
            severity: threshold.severity,
            threshold_id: threshold.threshold_id,
            threshold_version: threshold.version,
            description: Some(threshold.description.clone()).filter(|text| !text.is_empty()),
            summary: None,
            reading_at: reading.reading_at,
            detected_at,
            opened_at: None,
            occurrences: None,
            silenced_by: None,
            zone_id: reading.zone_id.clone(),
            device_type: reading.device_type.clone(),
            event_id: Some(reading.event_id),
        }
    }
}

fn reason(limit: Limit) -> Reason {
    match limit {
        Limit::Min => Reason::Below,
        Limit::Max => Reason::Above,
        Limit::NoData => Reason::NoData,
    }
}

/// Returns the limit that a value is beyond. A value on the limit is inside.
fn violated(threshold: &ThresholdRow, value: f64) -> Option<Bound> {
    let below = threshold.min_value.filter(|min| value < *min);
    let above = threshold.max_value.filter(|max| value > *max);
    below
        .map(|value| Bound { limit: Limit::Min, value })
        .or(above.map(|value| Bound { limit: Limit::Max, value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schema::{Repeat, Scope, Severity};
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
            scope: Scope::Sensor("s".to_owned()),
            metric: "temperature".to_owned(),
            min_value,
            max_value,
            no_data_seconds: None,
            hysteresis: 0.0,
            for_seconds: 0,
            keep_firing_seconds: 0,
            repeat: Repeat::Every,
            alert_age_seconds_max: None,
            severity: Severity::Warning,
            mode: Mode::Live,
            description: "too hot".to_owned(),
            version: 3,
            created_at: at,
            updated_at: at,
            updated_by: String::new(),
        }
    }

    fn bounds(value: f64, threshold: &ThresholdRow) -> Vec<Bound> {
        evaluate(&reading(value), [threshold]).map(|violation| violation.bound).collect()
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
    fn threshold_that_is_off_and_thresholds_of_others_never_fire() {
        let max = threshold(None, Some(30.0));
        let scoped = |scope: Scope| ThresholdRow { scope, ..max.clone() };
        for silent in [
            ThresholdRow { mode: Mode::Off, ..max.clone() },
            scoped(Scope::Sensor("t".to_owned())),
            scoped(Scope::Zone("elsewhere".to_owned())),
            scoped(Scope::DeviceType("PUMP".to_owned())),
            ThresholdRow { metric: "humidity".to_owned(), ..max.clone() },
        ] {
            assert_eq!(bounds(99.0, &silent), []);
        }
        let (zone_id, device_type) = ("zone".to_owned(), "THERMOSTAT".to_owned());
        for loud in [
            ThresholdRow { mode: Mode::Shadow, ..max.clone() },
            scoped(Scope::Zone(zone_id.clone())),
            scoped(Scope::DeviceType(device_type.clone())),
            scoped(Scope::ZoneAndType { zone_id, device_type }),
        ] {
            assert_eq!(bounds(99.0, &loud).len(), 1, "{:?}", loud.scope);
        }
    }

    #[test]
    fn alert_says_what_met_what() {
        let now = Timestamp::parse("2026-01-02T03:04:06Z").unwrap();
        let (reading, threshold) = (reading(31.5), threshold(None, Some(30.0)));
        let [violation] = evaluate(&reading, [&threshold]).collect::<Vec<_>>()[..] else { panic!("one") };
        assert_eq!(violation.key(&reading).event_id, reading.event_id);
        let alert = violation.alert(&reading, now);
        assert_eq!(alert.alert_id, Alert::id(threshold.threshold_id, 3, reading.event_id));
        assert_eq!((alert.status, alert.value, alert.detected_at), (Status::Firing, Some(31.5), now));
        assert_eq!((alert.threshold_version, alert.event_id), (3, Some(reading.event_id)));
        assert_eq!((alert.reason, alert.description.as_deref()), (Some(Reason::Above), Some("too hot")));
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

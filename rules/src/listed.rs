//! The thresholds of one scope, laid out for one look: a sensor has one, and there are very many. Pure.

use crate::limits;
use crate::versions::Versions;
use schema::{ReadingView, ThresholdRow, Timestamp};
use std::slice;
use std::sync::Arc;
use uuid::Uuid;

/// Holds the thresholds of one scope in the order of their ids; also those that had this scope in a version
/// that is still known.
#[derive(Debug, Default)]
pub(crate) enum Thresholds {
    #[default]
    None,
    One(Listed),
    More(Vec<Listed>),
}

impl Thresholds {
    /// Adds a threshold that is not among them.
    pub(crate) fn insert(&mut self, listed: Listed) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(listed),
            Self::One(one) if one.id() < listed.id() => Self::More(vec![one, listed]),
            Self::One(one) => Self::More(vec![listed, one]),
            Self::More(mut more) => {
                let place = more.partition_point(|other| other.id() < listed.id());
                more.insert(place, listed);
                Self::More(more)
            }
        };
    }

    /// Removes a threshold.
    pub(crate) fn remove(&mut self, id: Uuid) {
        match self {
            Self::None => {}
            Self::One(one) if one.id() == id => *self = Self::None,
            Self::One(_) => {}
            Self::More(more) => more.retain(|listed| listed.id() != id),
        }
    }

    pub(crate) fn as_slice(&self) -> &[Listed] {
        match self {
            Self::None => &[],
            Self::One(one) => slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// A threshold, and beside it what says of nearly every reading that it is of no concern: whoever asks looks
/// at no other memory.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) versions: Arc<Versions>,
    /// The current version's.
    metric: u64,
    in_force_since: Timestamp,
    /// Values from `min` to `max` are of no concern; where every value is one, there are none.
    min: f64,
    max: f64,
}

impl Listed {
    pub(crate) fn new(versions: Arc<Versions>) -> Self {
        let row = versions.current();
        let (metric, in_force_since) = (print(&row.metric), row.updated_at);
        let (min, max) = if concerns_every_value(row) {
            (f64::INFINITY, f64::NEG_INFINITY)
        } else {
            (row.min_value.unwrap_or(f64::NEG_INFINITY), row.max_value.unwrap_or(f64::INFINITY))
        };
        Self { versions, metric, in_force_since, min, max }
    }

    fn id(&self) -> Uuid {
        self.versions.current().threshold_id
    }

    /// Says whether a value may begin an episode, or be counted. It may say yes without need, and never no.
    pub(crate) fn may_begin(&self, reading: &ReadingView<'_>) -> bool {
        if reading.reading_at < self.in_force_since {
            return self.versions.at(reading.reading_at).is_some_and(|row| row_may_begin(row, reading));
        }
        let is_inside = |value: f64| self.min <= value && value <= self.max;
        reading.values.iter().any(|(metric, value)| !is_inside(*value) && print(metric) == self.metric)
    }
}

/// Says the same by the version of an instant.
fn row_may_begin(row: &ThresholdRow, reading: &ReadingView<'_>) -> bool {
    let mut of_metric = reading.values.iter().filter(|(metric, _)| *metric == row.metric);
    of_metric.any(|(_, value)| concerns_every_value(row) || limits::violated(row, *value).is_some())
}

/// Says whether values inside the limits are of concern, too.
fn concerns_every_value(row: &ThresholdRow) -> bool {
    row.no_data_seconds.is_some() || row.alert_age_seconds_max.is_some()
}

/// Tells metrics apart, most of the time: equal ones have equal prints.
fn print(metric: &str) -> u64 {
    let bytes = metric.bytes().rev().take(8);
    bytes.fold(metric.len() as u64, |print, byte| print.rotate_left(8) ^ u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::{Mode, Repeat, Scope, Severity};

    fn listed(id: u128, max: f64, silence: Option<u32>) -> Listed {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let first = ThresholdRow {
            threshold_id: Uuid::from_u128(id),
            scope: Scope::Sensor("s".to_owned()),
            metric: "temperature".to_owned(),
            min_value: None,
            max_value: Some(max - 10.0),
            no_data_seconds: silence,
            hysteresis: 0.0,
            for_seconds: 0,
            keep_firing_seconds: 0,
            repeat: Repeat::Every,
            alert_age_seconds_max: None,
            severity: Severity::Info,
            mode: Mode::Live,
            description: String::new(),
            version: 1,
            created_at: at(1_000),
            updated_at: at(1_000),
            updated_by: String::new(),
        };
        let mut versions = Versions::new(first.clone());
        versions.add(ThresholdRow { version: 2, updated_at: at(2_000), max_value: Some(max), ..first });
        Listed::new(Arc::new(versions))
    }

    fn reading(metric: &str, value: f64, micros: i64) -> ReadingView<'_> {
        let at = Timestamp::from_micros(micros).unwrap();
        ReadingView {
            event_id: Uuid::nil(),
            sensor_id: "s".into(),
            device_type: "".into(),
            zone_id: "".into(),
            values: vec![("other".into(), 1e9), (metric.into(), value)],
            attributes: serde_json::Map::new(),
            reading_at: at,
            received_at: at,
        }
    }

    #[test]
    fn value_is_of_concern_by_the_version_of_its_instant() {
        let one = listed(1, 30.0, None);
        for (metric, value, micros, expected) in [
            ("temperature", 30.0, 2_000, false),
            ("temperature", 30.1, 2_000, true),
            ("humidity", 30.1, 2_000, false),
            ("temperature", 20.0, 1_999, false),
            ("temperature", 20.1, 1_999, true),
            ("humidity", 20.1, 1_999, false),
            ("temperature", 99.0, 999, false),
        ] {
            assert_eq!(one.may_begin(&reading(metric, value, micros)), expected, "{metric} {value} {micros}");
        }
        assert!(listed(1, 30.0, Some(5)).may_begin(&reading("temperature", 0.0, 2_000)));
    }

    #[test]
    fn thresholds_stay_in_the_order_of_their_ids() {
        let ids = |of: &Thresholds| of.as_slice().iter().map(|one| one.id().as_u128()).collect::<Vec<_>>();
        let mut of = Thresholds::default();
        for id in [2, 3, 1] {
            of.insert(listed(id, 1.0, None));
        }
        assert_eq!(ids(&of), [1, 2, 3]);
        [2, 9, 1].into_iter().for_each(|id| of.remove(Uuid::from_u128(id)));
        assert_eq!(ids(&of), [3]);
        of.remove(Uuid::from_u128(3));
        assert!(of.as_slice().is_empty());
    }

    #[test]
    fn metrics_that_differ_in_a_byte_have_prints_of_their_own() {
        let metrics = ["a", "b", "ab", "ba", "temperature", "temperaturf", "semperature", "t.a", "t_a", ""];
        let prints: std::collections::BTreeSet<u64> = metrics.iter().map(|metric| print(metric)).collect();
        // Only the last eight bytes and the length are looked at.
        assert_eq!(prints.len(), metrics.len() - 1);
    }
}

//! What a backtest answers: sums, episodes, and how two sets of episodes differ. Pure.

use schema::{Alert, Bound, EpisodeStep, Reason, Timestamp};
use serde::Serialize;
use std::collections::HashMap;
use uuid::Uuid;

/// Time between the end of an episode and the beginning of the next one of the same sensor and threshold
/// below which that is a flap, in microseconds: five minutes.
const FLAP_MICROS_MAX: i64 = 300 * 1_000_000;
/// Most episodes that an answer names; the rest is counted. About 300 bytes each.
const NAMED_MAX: usize = 1_000;

/// What a backtest answers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Up to where the range was evaluated.
    pub(crate) until: Timestamp,
    /// Whether that is before its end, because a bound was met.
    pub(crate) truncated: bool,
    /// Values that were read.
    pub(crate) readings: u64,
    /// Sensors that they are of.
    pub(crate) sensors: u64,
    /// Sums of the tested threshold's episodes, where none in force is more specific.
    pub(crate) tested: Totals,
    /// The same of the thresholds that are in force.
    pub(crate) in_force: Totals,
    /// The same of these and the tested one together.
    pub(crate) if_saved: Totals,
    pub(crate) difference: Difference,
    /// The first episodes of the tested threshold.
    pub(crate) episodes: Vec<Span>,
}

/// Sums up episodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    pub(crate) episodes: u64,
    /// Alerts, continuing and resolved ones included.
    pub(crate) alerts: u64,
    /// Time in alarm over all sensors, up to the end of the range.
    pub(crate) seconds_in_alarm: f64,
    /// Episodes that began within five minutes of the last one of their sensor.
    pub(crate) flaps: u64,
    /// Episodes that were open at the end of the range.
    pub(crate) open_at_end: u64,
}

/// Compares the episodes as they would have been with those of what is in force: two of one sensor are the
/// same where they overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Episodes that nothing in force has had.
    pub(crate) added: u64,
    /// Episodes of what is in force that there would not have been.
    pub(crate) gone: u64,
    /// Episodes of what is in force that there would have been, too.
    pub(crate) kept: u64,
}

/// An episode.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Span {
    pub(crate) sensor_id: String,
    #[serde(skip)]
    pub(crate) threshold_id: Uuid,
    pub(crate) opened_at: Timestamp,
    /// None when it was open at the end of the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) reason: Option<Reason>,
    /// The value that opened it; silence has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<f64>,
    pub(crate) bound: Bound,
    /// Violating readings.
    pub(crate) occurrences: u64,
    #[serde(skip)]
    is_flap: bool,
    #[serde(skip)]
    alerts: u64,
}

/// Keeps the episodes of a set of thresholds, in the order in which they were opened.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    spans: Vec<Span>,
    /// The last one of each sensor and threshold.
    last: HashMap<(String, Uuid), usize>,
}

impl Spans {
    /// Counts them.
    pub(crate) fn count(&self) -> usize {
        self.spans.len()
    }

    /// Notes what an alert of that instant does to its episode.
    pub(crate) fn note(&mut self, alert: &Alert, at: Timestamp) {
        let key = (alert.sensor_id.clone(), alert.threshold_id);
        let last = self.last.get(&key).copied();
        if alert.episode == Some(EpisodeStep::Opened) {
            let opened_at = alert.opened_at.unwrap_or(at);
            let last_end = last.and_then(|last| self.spans.get(last)).and_then(|last| last.closed_at);
            self.last.insert(key, self.spans.len());
            self.spans.push(Span {
                sensor_id: alert.sensor_id.clone(),
                threshold_id: alert.threshold_id,
                opened_at,
                closed_at: None,
                reason: alert.reason,
                value: alert.value,
                bound: alert.bound,
                occurrences: alert.occurrences.unwrap_or_default(),
                is_flap: last_end
                    .is_some_and(|end| opened_at.as_micros() - end.as_micros() < FLAP_MICROS_MAX),
                alerts: 1,
            });
            return;
        }
        let Some(span) = last.and_then(|last| self.spans.get_mut(last)) else { return };
        span.alerts += 1;
        span.occurrences = span.occurrences.max(alert.occurrences.unwrap_or_default());
        if alert.episode == Some(EpisodeStep::Closed) {
            span.closed_at = Some(at.max(span.opened_at));
        }
    }

    /// Sums up those that are wanted, up to the end of the range.
    pub(crate) fn totals(&self, until: Timestamp, is_wanted: impl Fn(&Span) -> bool) -> Totals {
        let mut totals = Totals::default();
        let mut micros: i64 = 0;
        for span in self.spans.iter().filter(|span| is_wanted(span)) {
            totals.episodes += 1;
            totals.alerts += span.alerts;
            totals.flaps += u64::from(span.is_flap);
            totals.open_at_end += u64::from(span.closed_at.is_none());
            micros = micros.saturating_add(span.end(until).as_micros() - span.opened_at.as_micros());
        }
        totals.seconds_in_alarm = seconds(micros);
        totals
    }

    /// Returns the first ones of a threshold.
    pub(crate) fn first_of(&self, threshold_id: Uuid) -> Vec<Span> {
        let own = self.spans.iter().filter(|span| span.threshold_id == threshold_id);
        own.take(NAMED_MAX).cloned().collect()
    }

    /// Compares these with what is in force.
    pub(crate) fn difference(&self, in_force: &Self, until: Timestamp) -> Difference {
        let (own, others) = (self.by_sensor(until), in_force.by_sensor(until));
        let kept = in_force.beside(&own, until);
        let count = |spans: usize| u64::try_from(spans).unwrap_or(u64::MAX);
        Difference {
            added: count(self.count() - self.beside(&others, until)),
            gone: count(in_force.count() - kept),
            kept: count(kept),
        }
    }

    /// Counts those that overlap one of the others.
    fn beside(&self, others: &HashMap<&str, Vec<(Timestamp, Timestamp)>>, until: Timestamp) -> usize {
        let is_beside = |span: &&Span| {
            let Some(others) = others.get(span.sensor_id.as_str()) else { return false };
            // Of those that begin before its end, the last end.
            let before = others.partition_point(|(opened, _)| *opened <= span.end(until));
            before.checked_sub(1).is_some_and(|last| others[last].1 >= span.opened_at)
        };
        self.spans.iter().filter(is_beside).count()
    }

    /// Lists them by sensor and beginning, each with the last end up to there.
    fn by_sensor(&self, until: Timestamp) -> HashMap<&str, Vec<(Timestamp, Timestamp)>> {
        let mut by_sensor: HashMap<&str, Vec<(Timestamp, Timestamp)>> = HashMap::new();
        for span in &self.spans {
            by_sensor.entry(&span.sensor_id).or_default().push((span.opened_at, span.end(until)));
        }
        for spans in by_sensor.values_mut() {
            spans.sort_unstable();
            let mut last_end = spans[0].1;
            for (_, end) in spans {
                last_end = last_end.max(*end);
                *end = last_end;
            }
        }
        by_sensor
    }
}

impl Span {
    fn end(&self, until: Timestamp) -> Timestamp {
        self.closed_at.unwrap_or(until).max(self.opened_at)
    }
}

/// Turns microseconds into seconds.
fn seconds(micros: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years in alarm")]
    let micros = micros as f64;
    micros / 1_000_000.0
}

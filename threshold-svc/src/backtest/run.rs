//! What thresholds would have said of stored readings. Pure.
//!
//! It is `rules::Episodes` that evaluates, as in alerting-svc; here are its clock and its clerk. Readings
//! come in event order, each as if it had arrived at its own instant, so none is late. Time passes from one
//! to the next, and each timer fires at its instant: there is no reading under way that it would wait for.

use super::report::{Report, Spans};
use rules::{DedupWindow, Devices, Episodes, GRACE_MICROS, Input, Outputs, Rules, Tables};
use schema::{ReadingView, ThresholdRow, Timestamp};
use std::borrow::Cow;
use std::collections::HashSet;
use uuid::Uuid;

/// Alerts of which it is known that they are told already: in a table each event is there once.
const SEEN_MAX: usize = 1;
/// Closed episodes that are remembered, against another value of the instant of their end.
const CLOSED_MAX: usize = 100_000;
/// Readings after which a run keeps what it has changed, so that it holds no more of it.
const COMMIT_READINGS: u64 = 1_000;

/// One stored value of the metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) sensor_id: &'a str,
    pub(crate) device_type: &'a str,
    pub(crate) zone_id: &'a str,
    pub(crate) event_id: Uuid,
    pub(crate) value: f64,
    pub(crate) reading_at: Timestamp,
}

/// Evaluates the thresholds in force, and beside them the same with the tested one.
pub(crate) struct Backtest {
    metric: String,
    tested: Uuid,
    in_force: Track,
    if_saved: Track,
    sensors: HashSet<Box<str>>,
    readings: u64,
    reached: Timestamp,
}

impl Backtest {
    /// Begins at an instant, at which no episode is open. The tested one stands in the place of its own
    /// stored version. Every row is in force from before that instant on, and live.
    pub(crate) fn new(tested: &ThresholdRow, in_force: &[ThresholdRow], from: Timestamp) -> Self {
        let others = in_force.iter().filter(|row| row.threshold_id != tested.threshold_id);
        Self {
            metric: tested.metric.clone(),
            tested: tested.threshold_id,
            in_force: Track::new(in_force),
            if_saved: Track::new(others.chain([tested])),
            sensors: HashSet::new(),
            readings: 0,
            reached: from,
        }
    }

    /// Takes the next value, which is not older than the one before.
    pub(crate) fn read(&mut self, sample: &Sample<'_>) {
        self.readings += 1;
        self.reached = sample.reading_at;
        if !self.sensors.contains(sample.sensor_id) {
            self.sensors.insert(sample.sensor_id.into());
        }
        let reading = ReadingView {
            event_id: sample.event_id,
            sensor_id: Cow::Borrowed(sample.sensor_id),
            device_type: Cow::Borrowed(sample.device_type),
            zone_id: Cow::Borrowed(sample.zone_id),
            values: vec![(Cow::Borrowed(self.metric.as_str()), sample.value)],
            attributes: serde_json::Map::new(),
            reading_at: sample.reading_at,
            received_at: sample.reading_at,
        };
        let is_commit = self.readings.is_multiple_of(COMMIT_READINGS);
        for track in [&mut self.in_force, &mut self.if_saved] {
            track.read(&reading);
            if is_commit {
                track.episodes.commit();
            }
        }
    }

    /// Says that there is no further value before an instant.
    pub(crate) fn reach(&mut self, instant: Timestamp) {
        self.reached = self.reached.max(instant);
    }

    /// Counts the values that it has taken.
    pub(crate) fn readings(&self) -> u64 {
        self.readings
    }

    /// Counts the episodes that it holds.
    pub(crate) fn episodes(&self) -> usize {
        self.in_force.spans.count() + self.if_saved.spans.count()
    }

    /// Ends where it has come to.
    pub(crate) fn finish(mut self, truncated: bool) -> Report {
        let until = self.reached;
        self.in_force.pass_to(until);
        self.if_saved.pass_to(until);
        let (in_force, if_saved) = (&self.in_force.spans, &self.if_saved.spans);
        Report {
            until,
            truncated,
            readings: self.readings,
            sensors: u64::try_from(self.sensors.len()).unwrap_or(u64::MAX),
            tested: if_saved.totals(until, |span| span.threshold_id == self.tested),
            in_force: in_force.totals(until, |_| true),
            if_saved: if_saved.totals(until, |_| true),
            difference: if_saved.difference(in_force, until),
            episodes: if_saved.first_of(self.tested),
        }
    }
}

/// A set of thresholds, and what it says.
struct Track {
    rules: Rules,
    devices: Devices,
    episodes: Episodes,
    out: Outputs,
    spans: Spans,
    #[cfg(test)]
    alerts: Vec<schema::Alert>,
}

impl Track {
    fn new<'a>(rows: impl IntoIterator<Item = &'a ThresholdRow>) -> Self {
        let mut rules = Rules::default();
        for row in rows {
            rules.put(row.clone());
        }
        Self {
            rules,
            devices: Devices::default(),
            episodes: Episodes::new(DedupWindow::new(SEEN_MAX), CLOSED_MAX),
            out: Outputs::default(),
            spans: Spans::default(),
            #[cfg(test)]
            alerts: Vec::new(),
        }
    }

    fn read(&mut self, reading: &ReadingView<'_>) {
        // A timer of this very instant waits: its readings come first.
        let before = reading.reading_at.as_micros() - 1;
        self.pass(before);
        // No record is kept, so the offset says nothing.
        self.step(Input::Reading(reading, 0), reading.reading_at, reading.reading_at);
    }

    fn pass_to(&mut self, until: Timestamp) {
        self.pass(until.as_micros());
    }

    /// Fires what is due up to an instant, each timer at its own.
    fn pass(&mut self, until_micros: i64) {
        while let Some(due) = self.episodes.next_due() {
            let at = Timestamp::from_micros(due.as_micros() - GRACE_MICROS).unwrap_or(due);
            if at.as_micros() > until_micros {
                return;
            }
            self.step(Input::Tick, due, at);
            if self.episodes.next_due() == Some(due) {
                return;
            }
        }
    }

    /// Makes a step whose alerts are of an instant.
    fn step(&mut self, input: Input<'_>, now: Timestamp, at: Timestamp) {
        let tables = Tables { rules: &self.rules, devices: &self.devices };
        self.episodes.step(tables, input, now, &mut self.out);
        for alert in self.out.alerts.drain(..) {
            self.spans.note(&alert, at);
            #[cfg(test)]
            self.alerts.push(alert);
        }
    }
}

#[cfg(test)]
mod tests;

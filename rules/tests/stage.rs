//! One partition and its topics, as alerting-svc keeps them.

use rules::{DedupKey, DedupWindow, Devices, Episodes, GRACE_MICROS, Input, Outputs, Rules, Tables};
use schema::{
    Alert, Episode, EpisodeKey, EpisodeStep, Mode, ReadingView, Reason, Repeat, Scope, Severity,
    ThresholdRow, Timestamp,
};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Alerts and closed episodes that a partition remembers; more than any test has.
const REMEMBERED: usize = 10_000;

/// Seconds after the beginning of the tests' time.
pub(crate) fn second(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000 + seconds * 1_000_000).unwrap()
}

pub(crate) fn seconds_of(instant: Timestamp) -> i64 {
    (instant.as_micros() - 1_770_000_000_000_000) / 1_000_000
}

/// A threshold of 30 at most for every sensor of the zone, in force since long ago.
pub(crate) fn threshold(id: u128) -> ThresholdRow {
    ThresholdRow {
        threshold_id: Uuid::from_u128(id),
        scope: Scope::Zone("z".to_owned()),
        metric: "m".to_owned(),
        min_value: None,
        max_value: Some(30.0),
        no_data_seconds: None,
        hysteresis: 0.0,
        for_seconds: 0,
        keep_firing_seconds: 0,
        repeat: Repeat::Every,
        alert_age_seconds_max: None,
        severity: Severity::Warning,
        mode: Mode::Live,
        description: String::new(),
        version: 1,
        created_at: second(-1_000_000),
        updated_at: second(-1_000_000),
        updated_by: String::new(),
    }
}

/// A reading: sensor, seconds of event time and of arrival, value, and a number that tells events apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) sensor: &'static str,
    pub(crate) at: i64,
    pub(crate) received: i64,
    pub(crate) value: f64,
    pub(crate) event: u128,
    pub(crate) attributes: serde_json::Map<String, serde_json::Value>,
}

impl Reading {
    pub(crate) fn new(sensor: &'static str, at: i64, value: f64) -> Self {
        // Equal readings are one event.
        let event = (u128::try_from(at + 10_000_000).unwrap() << 64) | u128::from(value.to_bits());
        Self { sensor, at, received: at, value, event, attributes: serde_json::Map::new() }
    }

    pub(crate) fn view(&self) -> ReadingView<'_> {
        ReadingView {
            event_id: Uuid::from_u128(self.event),
            sensor_id: self.sensor.into(),
            device_type: "T".into(),
            zone_id: "z".into(),
            values: vec![("m".into(), self.value)],
            attributes: self.attributes.clone(),
            reading_at: second(self.at),
            received_at: second(self.received),
        }
    }
}

/// A partition, its tables, and what is committed of its topics.
pub(crate) struct Stage {
    pub(crate) rules: Rules,
    pub(crate) devices: Devices,
    pub(crate) episodes: Episodes,
    pub(crate) out: Outputs,
    /// Alerts of committed transactions.
    pub(crate) alerts: Vec<Alert>,
    /// `iot-alert-state`, compacted: each record with its place.
    pub(crate) state: BTreeMap<EpisodeKey, (usize, Episode)>,
    written: usize,
    offset: i64,
    committed: i64,
    readings: Vec<Reading>,
}

impl Stage {
    pub(crate) fn new(rows: impl IntoIterator<Item = ThresholdRow>) -> Self {
        let mut rules = Rules::default();
        for row in rows {
            rules.put(row);
        }
        Self {
            rules,
            devices: Devices::default(),
            episodes: Episodes::new(DedupWindow::new(REMEMBERED), REMEMBERED),
            out: Outputs::default(),
            alerts: Vec::new(),
            state: BTreeMap::new(),
            written: 0,
            offset: 0,
            committed: 0,
            readings: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, input: Input<'_>, now: i64) {
        let tables = Tables { rules: &self.rules, devices: &self.devices };
        self.episodes.step(tables, input, second(now), &mut self.out);
    }

    pub(crate) fn read(&mut self, reading: &Reading) {
        self.readings.truncate(usize::try_from(self.offset).unwrap());
        self.readings.push(reading.clone());
        self.step(Input::Reading(&reading.view(), self.offset), reading.received);
        self.offset += 1;
    }

    /// Lets the clock come to an instant, for timers that were due until then.
    pub(crate) fn tick(&mut self, now: i64) {
        let tables = Tables { rules: &self.rules, devices: &self.devices };
        let now = Timestamp::from_micros(second(now).as_micros() + GRACE_MICROS).unwrap();
        self.episodes.step(tables, Input::Tick, now, &mut self.out);
    }

    pub(crate) fn put(&mut self, row: ThresholdRow, now: i64) {
        let touched = self.rules.put(row);
        self.step(Input::RuleChanged(&touched), now);
    }

    pub(crate) fn commit(&mut self) {
        for (key, record) in self.episodes.changes(second(0)) {
            self.written += 1;
            match record {
                Some(record) => {
                    let text = serde_json::to_string(&record).unwrap();
                    let record = serde_json::from_str(&text).unwrap();
                    self.state.insert(key, (self.written, record));
                }
                None => drop(self.state.remove(&key)),
            }
        }
        self.alerts.append(&mut self.out.alerts);
        self.episodes.commit();
        self.committed = self.offset;
    }

    /// Aborts, and reads again what was not committed.
    pub(crate) fn abort(&mut self) {
        self.episodes.abort();
        self.read_again();
    }

    /// Begins again from the topics.
    pub(crate) fn restart(&mut self) {
        let mut window = DedupWindow::new(REMEMBERED);
        for alert in &self.alerts {
            if let Some(event_id) = alert.event_id {
                window.insert(DedupKey { threshold_id: alert.threshold_id, event_id });
            }
        }
        self.episodes = Episodes::new(window, REMEMBERED);
        let mut records: Vec<_> = self.state.iter().collect();
        records.sort_by_key(|(_, (place, _))| *place);
        for (key, (_, record)) in records {
            self.episodes.restore(key, Some(record.clone()));
        }
        let tables = Tables { rules: &self.rules, devices: &self.devices };
        let committed = usize::try_from(self.committed).unwrap();
        for (offset, reading) in (0..).zip(&self.readings[..committed]) {
            self.episodes.hear_again(tables, &reading.view(), offset);
        }
        self.read_again();
    }

    fn read_again(&mut self) {
        self.out.alerts.clear();
        self.step(Input::Restored, 0);
        let again = self.readings.split_off(usize::try_from(self.committed).unwrap());
        self.offset = self.committed;
        for reading in again {
            self.read(&reading);
        }
    }

    /// Commits, and returns the alerts of the thresholds so far, each with what is told by a clock left out.
    pub(crate) fn told(&mut self) -> BTreeMap<(String, Uuid), Vec<Alert>> {
        self.commit();
        let mut told: BTreeMap<_, Vec<Alert>> = BTreeMap::new();
        for alert in &self.alerts {
            let alert = Alert { detected_at: second(0), ..alert.clone() };
            told.entry((alert.sensor_id.clone(), alert.threshold_id)).or_default().push(alert);
        }
        told
    }

    /// Commits, and returns of each alert so far what it does to its episode, why, and its occurrences.
    pub(crate) fn steps(&mut self) -> Vec<(EpisodeStep, Reason, u64)> {
        self.commit();
        let step =
            |alert: &Alert| (alert.episode.unwrap(), alert.reason.unwrap(), alert.occurrences.unwrap_or(0));
        self.alerts.iter().map(step).collect()
    }
}

//! The episodes of one partition: readings, time and changes → alerts and records. ADR 0022, ADR 0024. Pure.

mod store;

use crate::dedup::DedupWindow;
use crate::devices::Devices;
use crate::held::{Held, Sample};
use crate::outputs::{Outputs, Step};
use crate::seen::Seen;
use crate::table::{Rules, Touched};
use crate::time::{latest, plus, shifted};
use crate::versions::is_on;
use crate::{limits, silence};
use schema::{Episode, EpisodeKey, ReadingView, Reason, ThresholdRow, Timestamp};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// Delay of a timer that fires by the clock, in microseconds: a reading that was received in time may still
/// be under way. A newer reading of the sensor fires it at once.
pub const GRACE_MICROS: i64 = 2_000_000;
/// Offsets after which the newest reading of a sensor that speaks is written, although nothing has changed:
/// a restart reads as many offsets again.
pub const UNWRITTEN_OFFSETS_MAX: i64 = 50_000;
/// Seconds after which it is written in any case, so that readings are not deleted before.
const UNWRITTEN_SECONDS_MAX: u32 = 24 * 3600;

/// What steps look up: the tables of this moment.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// The thresholds.
    pub rules: &'a Rules,
    /// The devices; an empty table knows no names, and every device is active.
    pub devices: &'a Devices,
}

/// What there is to be evaluated.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The next reading of the partition, and its offset there.
    Reading(&'a ReadingView<'a>, i64),
    /// Time has passed: every reading that was received before `now` has been evaluated.
    Tick,
    /// A change of a threshold is in the table.
    RuleChanged(&'a Touched),
    /// A change of this sensor's device is in the table.
    DeviceChanged(&'a str),
    /// Every record is restored, and the tables may have changed in any way since they were written.
    Restored,
}

/// Holds the episodes of the sensors of one partition; of a backtest, those of all.
///
/// Guarantee: equal inputs have equal outputs, in an equal order. [`Episodes::changes`] returns the records
/// of a transaction's changes, [`Episodes::commit`] keeps them, and [`Episodes::abort`] undoes them.
/// Units: memory grows with the sensors that are outside their limits, or covered by a threshold that waits
/// for silence, and with `closed_max` episodes that are over.
#[derive(Debug)]
pub struct Episodes {
    sensors: HashMap<Arc<str>, Vec<Entry>>,
    /// When to look at an entry; each entry knows which of them is its own.
    timers: BTreeSet<(Timestamp, Arc<str>, Uuid)>,
    seen: Seen,
    /// Episodes that are over, the oldest first; some are not there any more.
    closed: VecDeque<(Arc<str>, Uuid, Timestamp)>,
    closed_max: usize,
    /// Sensors that have spoken since their last record, the longest unwritten first.
    unwritten: VecDeque<Unwritten>,
    /// What the open transaction has changed, as it was before.
    touched: HashMap<(Arc<str>, Uuid), Before>,
    /// Offset of the last reading.
    offset: i64,
    open_count: usize,
    listening_count: usize,
}

#[derive(Debug)]
struct Entry {
    threshold_id: Uuid,
    held: Held,
    timer: Option<Timestamp>,
}

#[derive(Debug)]
struct Unwritten {
    since: i64,
    received_at: Timestamp,
    sensor: Arc<str>,
    threshold_id: Uuid,
}

#[derive(Debug)]
struct Before {
    held: Option<Held>,
    timer: Option<Timestamp>,
}

impl Episodes {
    /// Begins without any episode. `seen` holds the last alerts, `closed_max` counts episodes.
    pub fn new(seen: DedupWindow, closed_max: usize) -> Self {
        Self {
            sensors: HashMap::new(),
            timers: BTreeSet::new(),
            seen: Seen::new(seen),
            closed: VecDeque::new(),
            closed_max,
            unwritten: VecDeque::new(),
            touched: HashMap::new(),
            offset: 0,
            open_count: 0,
            listening_count: 0,
        }
    }

    /// Takes over a record, in the order of the topic; a tombstone has no value. [`Input::Restored`] follows
    /// the last one, before any other step.
    pub fn restore(&mut self, key: &EpisodeKey, record: Option<Episode>) {
        let sensor: Arc<str> = match self.sensors.get_key_value(key.sensor_id.as_str()) {
            Some((sensor, _)) => Arc::clone(sensor),
            None => key.sensor_id.as_str().into(),
        };
        let held = record.map(Held::of_record);
        if let Some(Held::Closed(closed)) = &held {
            self.closed.push_back((Arc::clone(&sensor), key.threshold_id, closed.until));
        }
        self.set(&sensor, key.threshold_id, held);
    }

    /// Reads a reading again that was evaluated before the restart: all that is taken from it is when its
    /// sensor spoke, which records say up to [`UNWRITTEN_OFFSETS_MAX`] later. It follows the last record.
    pub fn hear_again(&mut self, tables: Tables<'_>, reading: &ReadingView<'_>, offset: i64) {
        self.offset = self.offset.max(offset);
        let Some((sensor, entries)) = self.sensors.get_key_value(reading.sensor_id.as_ref()) else { return };
        let is_newer =
            |held: &Held| matches!(held, Held::Listening(old) if old.last_reading_at < reading.reading_at);
        if !entries.iter().any(|entry| is_newer(&entry.held)) {
            return;
        }
        let sensor = Arc::clone(sensor);
        for (row, sample) in samples(tables, reading, offset, &mut Outputs::default()) {
            let Some(Held::Listening(old)) = self.get(&sensor, row.threshold_id) else { continue };
            if old.last_reading_at < sample.at && old.version <= row.version {
                let mut listening = old.clone();
                listening.hear(&sample);
                self.hear(&sensor, row.threshold_id, listening, &sample);
            }
        }
        // No transaction is open: this one has changed nothing.
        self.touched.clear();
    }

    /// Makes one step at `now`, and adds what it says to `out`.
    pub fn step(&mut self, tables: Tables<'_>, input: Input<'_>, now: Timestamp, out: &mut Outputs) {
        match input {
            Input::Reading(reading, offset) => self.read(tables, reading, offset, now, out),
            Input::Tick => self.tick(tables, now, out),
            Input::RuleChanged(touched) => {
                let concerned = |threshold_id: Uuid, metric: &str| {
                    threshold_id == touched.threshold_id || touched.metrics.iter().any(|one| one == metric)
                };
                let since = touched.in_force_since;
                match touched.sensors() {
                    Some(sensors) => self.check(tables, sensors, concerned, since, now, out),
                    None => self.check(tables, self.all_sensors().iter(), concerned, since, now, out),
                }
            }
            Input::DeviceChanged(sensor_id) => {
                self.check(tables, [sensor_id], |_, _| true, None, now, out);
            }
            Input::Restored => {
                let sensors = self.all_sensors();
                self.check(tables, sensors.iter(), |_, _| true, None, now, out);
                for sensor in &sensors {
                    self.set_timers(tables, sensor);
                }
            }
        }
    }

    /// Returns the earliest instant at which a tick may say anything.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, ..)| *due)
    }

    /// Counts the episodes that were opened and are not closed, those in shadow too.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Says whether any threshold waits for the silence of a sensor: only then are readings to be heard
    /// again.
    pub fn is_listening(&self) -> bool {
        self.listening_count > 0
    }

    fn all_sensors(&self) -> BTreeSet<Arc<str>> {
        self.sensors.keys().cloned().collect()
    }

    fn read(
        &mut self,
        tables: Tables<'_>,
        reading: &ReadingView<'_>,
        offset: i64,
        now: Timestamp,
        out: &mut Outputs,
    ) {
        self.offset = self.offset.max(offset);
        let sensor_id = reading.sensor_id.as_ref();
        let known = self.sensors.get_key_value(sensor_id);
        let is_over = |entry: &Entry| matches!(entry.held, Held::Closed(_));
        if known.is_none_or(|(_, entries)| entries.iter().all(is_over)) && !tables.rules.may_begin(reading) {
            return;
        }
        let known = known.map(|(sensor, _)| Arc::clone(sensor));
        let samples = samples(tables, reading, offset, out);
        if samples.is_empty() && known.is_none() {
            return;
        }
        let sensor = known.unwrap_or_else(|| sensor_id.into());
        for (row, sample) in &samples {
            let held = self.get(&sensor, row.threshold_id).cloned();
            let mut step = Step { devices: tables.devices, now, seen: &mut self.seen, out };
            let held = follow_version(&mut step, tables.rules, row, held, sample);
            let held = match row.no_data_seconds {
                _ if held.as_ref().is_some_and(|held| is_later_version(held, row)) => held,
                Some(silence) => Some(silence::evaluate(&mut step, row, silence, held, sample)),
                None => limits::evaluate(&mut step, row, held, sample),
            };
            match held {
                Some(Held::Listening(listening)) => self.hear(&sensor, row.threshold_id, listening, sample),
                held => self.put(&sensor, row.threshold_id, held),
            }
            self.set_timer(tables, &sensor, row.threshold_id);
        }
        let has_metric = |metric: &str| reading.values.iter().any(|(name, _)| name == metric);
        let unspoken = |entry: &&Entry| {
            let is_newer = entry.held.newest().0 < reading.reading_at;
            let is_about = entry.held.about().is_some_and(|(_, metric)| has_metric(metric));
            is_newer && is_about && samples.iter().all(|(row, _)| row.threshold_id != entry.threshold_id)
        };
        let entries = self.sensors.get(&sensor).into_iter().flatten();
        for threshold_id in entries.filter(unspoken).map(|entry| entry.threshold_id).collect::<Vec<_>>() {
            let is_aged = || {
                let place = (sensor_id, reading.zone_id.as_ref(), reading.device_type.as_ref());
                let rows = tables.rules.speaking(place, reading.reading_at, has_metric);
                rows.iter().any(|row| row.threshold_id == threshold_id)
            };
            if !tables.devices.is_gone(sensor_id) && !is_aged() {
                let why = why_over(tables.rules, threshold_id, reading.reading_at);
                self.end(tables, &sensor, threshold_id, (why, None), now, out);
            }
        }
    }

    fn tick(&mut self, tables: Tables<'_>, now: Timestamp, out: &mut Outputs) {
        while let Some((due, sensor, threshold_id)) = self.timers.first().cloned() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            match self.entry(&sensor, threshold_id) {
                Some(entry) if entry.timer == Some(due) => entry.timer = None,
                _ => continue,
            }
            let Some(held) = self.get(&sensor, threshold_id).cloned() else { continue };
            if let Some(row) = row_of(tables.rules, threshold_id, &held)
                && due_by_clock(row, &held).is_some_and(|due| due <= now)
            {
                let (read, received) = held.newest();
                let before = shifted(now, received, read, 1 - GRACE_MICROS);
                let key = EpisodeKey { threshold_id, sensor_id: sensor.to_string() };
                let mut step = Step { devices: tables.devices, now, seen: &mut self.seen, out };
                let held = match held {
                    Held::Running(episode) if row.no_data_seconds.is_none() => {
                        limits::advance(&mut step, row, episode, before)
                    }
                    held => silence::advance(&mut step, row, &key, held, before),
                };
                // At the end of time an instant may be due that never passes.
                if self.get(&sensor, threshold_id) == Some(&held) {
                    continue;
                }
                self.put(&sensor, threshold_id, Some(held));
            }
            self.set_timer(tables, &sensor, threshold_id);
        }
    }

    /// Closes what the tables do not speak for any more.
    fn check<'s>(
        &mut self,
        tables: Tables<'_>,
        sensors: impl IntoIterator<Item = impl AsRef<str> + 's>,
        is_concerned: impl Fn(Uuid, &str) -> bool,
        since: Option<Timestamp>,
        now: Timestamp,
        out: &mut Outputs,
    ) {
        for sensor in sensors {
            let Some((sensor, entries)) = self.sensors.get_key_value(sensor.as_ref()) else { continue };
            let concerned = entries.iter().filter(|entry| {
                entry.held.about().is_some_and(|(_, metric)| is_concerned(entry.threshold_id, metric))
            });
            let concerned: Vec<Uuid> = concerned.map(|entry| entry.threshold_id).collect();
            let sensor = Arc::clone(sensor);
            for threshold_id in concerned {
                if let Some(why) = self.over(tables, &sensor, threshold_id) {
                    self.end(tables, &sensor, threshold_id, (why, since), now, out);
                } else {
                    self.renumber(tables, &sensor, threshold_id);
                }
            }
        }
    }

    /// Says why an episode is over, if it is.
    fn over(&self, tables: Tables<'_>, sensor: &str, threshold_id: Uuid) -> Option<Reason> {
        let held = self.get(sensor, threshold_id)?;
        let (version, metric) = held.about()?;
        if tables.devices.is_gone(sensor) {
            return Some(Reason::DeviceGone);
        }
        let Some(versions) = tables.rules.versions(threshold_id) else { return Some(Reason::RuleDeleted) };
        if !is_on(versions.current()) {
            return Some(Reason::RuleOff);
        }
        let (zone_id, device_type) = held.place();
        let place = (sensor, zone_id, device_type);
        let rows = tables.rules.speaking(place, latest(), |asked| asked == metric);
        let speaks = rows.iter().any(|row| row.threshold_id == threshold_id);
        let goes_on = speaks && versions.is_alike(version, versions.current().version);
        (!goes_on).then_some(Reason::RuleChanged)
    }

    /// Goes on under the current version, which evaluates alike.
    fn renumber(&mut self, tables: Tables<'_>, sensor: &Arc<str>, threshold_id: Uuid) {
        let Some(current) = tables.rules.versions(threshold_id).map(|versions| versions.current()) else {
            return;
        };
        let Some(held) = self.get(sensor, threshold_id) else { return };
        if held.about().is_none_or(|(version, _)| version == current.version) {
            return;
        }
        let mut held = held.clone();
        match &mut held {
            Held::Listening(listening) => listening.version = current.version,
            Held::Running(episode) => {
                episode.threshold_version = current.version;
                episode.description = Some(current.description.clone()).filter(|text| !text.is_empty());
            }
            Held::Closed(_) => {}
        }
        self.put(sensor, threshold_id, Some(held));
    }

    /// Ends an episode for another reason than a value.
    fn end(
        &mut self,
        tables: Tables<'_>,
        sensor: &Arc<str>,
        threshold_id: Uuid,
        (why, since): (Reason, Option<Timestamp>),
        now: Timestamp,
        out: &mut Outputs,
    ) {
        let Some(held) = self.get(sensor, threshold_id).cloned() else { return };
        let mut step = Step { devices: tables.devices, now, seen: &mut self.seen, out };
        let held = ended(&mut step, held, why, since);
        self.put(sensor, threshold_id, held);
    }
}

/// Pairs the thresholds that speak for a reading with its values; none for a device that is gone.
fn samples<'a, 'r>(
    tables: Tables<'a>,
    reading: &'r ReadingView<'r>,
    offset: i64,
    out: &mut Outputs,
) -> Vec<(&'a ThresholdRow, Sample<'r>)> {
    let (sensor_id, zone_id) = (reading.sensor_id.as_ref(), reading.zone_id.as_ref());
    let device_type = reading.device_type.as_ref();
    let value_of =
        |metric: &str| reading.values.iter().find(|(name, _)| name == metric).map(|(_, value)| *value);
    let rows = tables
        .rules
        .speaking((sensor_id, zone_id, device_type), reading.reading_at, |metric| value_of(metric).is_some());
    if rows.is_empty() || tables.devices.is_gone(sensor_id) {
        return Vec::new();
    }
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        let is_aged = |seconds: u32| plus(reading.reading_at, seconds) < reading.received_at;
        if row.alert_age_seconds_max.is_some_and(is_aged) {
            out.aged += 1;
            continue;
        }
        samples.extend(value_of(&row.metric).map(|value| {
            let (at, received_at, event_id) = (reading.reading_at, reading.received_at, reading.event_id);
            (
                row,
                Sample { sensor_id, zone_id, device_type, at, received_at, event_id, value, offset, reading },
            )
        }));
    }
    samples
}

/// Says whether what is held belongs to a later version than a late reading's, which evaluates otherwise.
fn is_later_version(held: &Held, row: &ThresholdRow) -> bool {
    held.about().is_some_and(|(version, _)| version > row.version)
}

/// Closes an episode of an earlier version that evaluates otherwise than the one in force at a reading.
fn follow_version(
    step: &mut Step<'_>,
    rules: &Rules,
    row: &ThresholdRow,
    held: Option<Held>,
    sample: &Sample<'_>,
) -> Option<Held> {
    let held = held?;
    let Some((version, _)) = held.about() else { return Some(held) };
    let Some(versions) = rules.versions(row.threshold_id) else { return Some(held) };
    if version >= row.version || sample.at <= held.newest().0 || versions.is_alike(version, row.version) {
        return Some(held);
    }
    ended(step, held, Reason::RuleChanged, Some(row.updated_at))
}

/// Ends an episode; readings until `since` open no other.
fn ended(step: &mut Step<'_>, held: Held, why: Reason, since: Option<Timestamp>) -> Option<Held> {
    match held {
        Held::Listening(_) => None,
        Held::Running(episode) => {
            step.close(&episode, why);
            let until = since.map_or(episode.last_reading_at, |since| since.max(episode.last_reading_at));
            Some(Held::closed(episode, until))
        }
        closed @ Held::Closed(_) => Some(closed),
    }
}

/// Says why a threshold does not speak any more for a reading of that instant.
fn why_over(rules: &Rules, threshold_id: Uuid, at: Timestamp) -> Reason {
    match rules.versions(threshold_id) {
        None => Reason::RuleDeleted,
        Some(versions) if versions.at(at).is_some_and(|row| !is_on(row)) => Reason::RuleOff,
        Some(_) => Reason::RuleChanged,
    }
}

/// Returns the version of a threshold that what is held belongs to.
fn row_of<'a>(rules: &'a Rules, threshold_id: Uuid, held: &Held) -> Option<&'a ThresholdRow> {
    let (version, _) = held.about()?;
    Some(rules.versions(threshold_id)?.numbered(version))
}

/// Returns when the clock fires a timer: the time at which its instant comes on the sensor's own clock, as
/// its newest reading tells it, and some grace.
fn due_by_clock(row: &ThresholdRow, held: &Held) -> Option<Timestamp> {
    let due = match held {
        Held::Listening(listening) => Some(listening.silent_from()),
        Held::Running(episode) if row.no_data_seconds.is_some() => silence::due(row, episode),
        Held::Running(episode) => limits::due(row, episode),
        Held::Closed(_) => None,
    };
    let (read, received) = held.newest();
    due.map(|due| shifted(due, read, received, GRACE_MICROS))
}

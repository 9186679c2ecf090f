//! Where the episodes of a partition are kept, what a transaction changes of them, and its end. Pure.

use super::{
    Before, Entry, Episodes, Tables, UNWRITTEN_OFFSETS_MAX, UNWRITTEN_SECONDS_MAX, Unwritten, due_by_clock,
    row_of,
};
use crate::held::{Held, Listening, Sample};
use crate::time::plus;
use schema::{Episode, EpisodeKey, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

impl Episodes {
    /// Says whether the open transaction has changed anything.
    pub fn has_changes(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Returns the records of what the open transaction has changed, in the order of their keys; none stands
    /// for a tombstone. It is called once in a transaction, before its end.
    pub fn changes(&mut self, now: Timestamp) -> Vec<(EpisodeKey, Option<Episode>)> {
        let mut changes = BTreeMap::new();
        let touched: Vec<_> = self.touched.keys().cloned().collect();
        for (sensor, threshold_id) in touched {
            let key = EpisodeKey { threshold_id, sensor_id: sensor.to_string() };
            let before = &self.touched[&(Arc::clone(&sensor), threshold_id)].held;
            let record = match (before, self.get(&sensor, threshold_id)) {
                (None, None) => continue,
                (Some(Held::Listening(old)), Some(Held::Listening(new))) if old.version == new.version => {
                    continue;
                }
                (_, None) => None,
                (_, Some(held)) => match held.record(&key) {
                    Some(record) => Some(record),
                    None => continue,
                },
            };
            self.mark_written(&sensor, threshold_id);
            changes.insert(key, record);
        }
        while let Some(oldest) = self.unwritten.front() {
            let is_due = oldest.since.saturating_add(UNWRITTEN_OFFSETS_MAX) <= self.offset
                || plus(oldest.received_at, UNWRITTEN_SECONDS_MAX) <= now;
            if !is_due {
                break;
            }
            let Some(Unwritten { since, sensor, threshold_id, .. }) = self.unwritten.pop_front() else {
                break;
            };
            let Some(Held::Listening(listening)) = self.get(&sensor, threshold_id) else { continue };
            if listening.unwritten_since == Some(since) {
                let key = EpisodeKey { threshold_id, sensor_id: sensor.to_string() };
                let record = listening.episode(&key, listening.last_reading_at);
                self.touch(&sensor, threshold_id);
                self.mark_written(&sensor, threshold_id);
                changes.insert(key, Some(record));
            }
        }
        changes.into_iter().collect()
    }

    /// Keeps what the open transaction has changed: it is committed.
    pub fn commit(&mut self) {
        self.seen.commit();
        for (sensor, threshold_id) in std::mem::take(&mut self.touched).into_keys() {
            if let Some(Entry { held: Held::Closed(closed), .. }) = self.entry(&sensor, threshold_id) {
                closed.record = None;
            }
        }
    }

    /// Undoes what the open transaction has changed: it is aborted.
    pub fn abort(&mut self) {
        self.seen.abort();
        for ((sensor, threshold_id), Before { held, timer }) in std::mem::take(&mut self.touched) {
            match &held {
                Some(Held::Listening(Listening {
                    unwritten_since: Some(since), last_received_at, ..
                })) => {
                    let (since, received_at) = (*since, *last_received_at);
                    let sensor = Arc::clone(&sensor);
                    self.unwritten.push_front(Unwritten { since, received_at, sensor, threshold_id });
                }
                Some(Held::Closed(closed)) => {
                    self.closed.push_back((Arc::clone(&sensor), threshold_id, closed.until));
                }
                _ => {}
            }
            self.set(&sensor, threshold_id, held);
            if let Some(due) = timer
                && let Some(entry) = self.entry(&sensor, threshold_id)
            {
                entry.timer = Some(due);
                self.timers.insert((due, sensor, threshold_id));
            }
        }
    }

    pub(super) fn get(&self, sensor: &str, threshold_id: Uuid) -> Option<&Held> {
        let entries = self.sensors.get(sensor)?;
        entries.iter().find(|entry| entry.threshold_id == threshold_id).map(|entry| &entry.held)
    }

    pub(super) fn entry(&mut self, sensor: &str, threshold_id: Uuid) -> Option<&mut Entry> {
        let entries = self.sensors.get_mut(sensor)?;
        entries.iter_mut().find(|entry| entry.threshold_id == threshold_id)
    }

    /// Puts what is held now, and notes what was held before the transaction.
    pub(super) fn put(&mut self, sensor: &Arc<str>, threshold_id: Uuid, held: Option<Held>) {
        if self.get(sensor, threshold_id) == held.as_ref() {
            return;
        }
        self.touch(sensor, threshold_id);
        let until = match &held {
            Some(Held::Closed(closed)) => Some(closed.until),
            _ => None,
        };
        self.set(sensor, threshold_id, held);
        if let Some(until) = until {
            self.closed.push_back((Arc::clone(sensor), threshold_id, until));
            self.forget_closed();
        }
    }

    /// Puts that a sensor has spoken. Nothing has changed as long as it listened already: that is written
    /// later.
    pub(super) fn hear(
        &mut self,
        sensor: &Arc<str>,
        threshold_id: Uuid,
        mut listening: Listening,
        sample: &Sample<'_>,
    ) {
        if listening.unwritten_since.is_none()
            && matches!(self.get(sensor, threshold_id), Some(Held::Listening(old)) if *old != listening)
        {
            listening.unwritten_since = Some(sample.offset);
            let (since, received_at, sensor) = (sample.offset, sample.received_at, Arc::clone(sensor));
            self.unwritten.push_back(Unwritten { since, received_at, sensor, threshold_id });
        }
        self.put(sensor, threshold_id, Some(Held::Listening(listening)));
    }

    /// Sets the timer of an entry, unless an earlier one is set.
    pub(super) fn set_timer(&mut self, tables: Tables<'_>, sensor: &Arc<str>, threshold_id: Uuid) {
        let Some(held) = self.get(sensor, threshold_id) else { return };
        let Some(row) = row_of(tables.rules, threshold_id, held) else { return };
        let Some(due) = due_by_clock(row, held) else { return };
        let Some(entry) = self.entry(sensor, threshold_id) else { return };
        if entry.timer.is_none_or(|timer| due < timer) {
            entry.timer = Some(due);
            self.timers.insert((due, Arc::clone(sensor), threshold_id));
        }
    }

    /// Sets the timers of a sensor.
    pub(super) fn set_timers(&mut self, tables: Tables<'_>, sensor: &Arc<str>) {
        let entries = self.sensors.get(sensor).into_iter().flatten();
        for threshold_id in entries.map(|entry| entry.threshold_id).collect::<Vec<_>>() {
            self.set_timer(tables, sensor, threshold_id);
        }
    }

    fn touch(&mut self, sensor: &Arc<str>, threshold_id: Uuid) {
        let key = (Arc::clone(sensor), threshold_id);
        if !self.touched.contains_key(&key) {
            let mut entries = self.sensors.get(sensor).into_iter().flatten();
            let entry = entries.find(|entry| entry.threshold_id == threshold_id);
            let before = Before {
                held: entry.map(|entry| entry.held.clone()),
                timer: entry.and_then(|entry| entry.timer),
            };
            self.touched.insert(key, before);
        }
    }

    pub(super) fn set(&mut self, sensor: &Arc<str>, threshold_id: Uuid, held: Option<Held>) {
        let before = self.get(sensor, threshold_id);
        let count = |is: fn(&Held) -> bool, count: usize| {
            let (was, is) = (before.is_some_and(is), held.as_ref().is_some_and(is));
            count + usize::from(is) - usize::from(was)
        };
        let is_listening = |held: &Held| matches!(held, Held::Listening(_));
        let counts = (count(Held::is_open, self.open_count), count(is_listening, self.listening_count));
        (self.open_count, self.listening_count) = counts;
        match (held, self.entry(sensor, threshold_id)) {
            (Some(held), Some(entry)) => entry.held = held,
            (Some(held), None) => {
                let entries = self.sensors.entry(Arc::clone(sensor)).or_default();
                let place = entries.partition_point(|entry| entry.threshold_id < threshold_id);
                entries.insert(place, Entry { threshold_id, held, timer: None });
            }
            (None, Some(_)) => {
                if let Some(entries) = self.sensors.get_mut(sensor) {
                    entries.retain(|entry| entry.threshold_id != threshold_id);
                    if entries.is_empty() {
                        self.sensors.remove(sensor);
                    }
                }
            }
            (None, None) => {}
        }
    }

    fn mark_written(&mut self, sensor: &Arc<str>, threshold_id: Uuid) {
        if let Some(Entry { held: Held::Listening(listening), .. }) = self.entry(sensor, threshold_id) {
            listening.unwritten_since = None;
        }
    }

    /// Forgets the oldest of the episodes that are over, beyond their number.
    fn forget_closed(&mut self) {
        while self.closed.len() > self.closed_max {
            let Some((sensor, threshold_id, until)) = self.closed.pop_front() else { return };
            let is_it = |held: &Held| matches!(held, Held::Closed(closed) if closed.until == until);
            if self.get(&sensor, threshold_id).is_some_and(is_it) {
                self.touch(&sensor, threshold_id);
                self.set(&sensor, threshold_id, None);
            }
        }
    }
}

//! What is held of one sensor under one threshold, and how it becomes a record and comes back from one. Pure.

use crate::time::plus;
use schema::{
    Bound, Episode, EpisodeKey, EpisodeState, Limit, Mode, ReadingView, Reason, Severity, ThresholdRow,
    Timestamp,
};
use std::sync::Arc;
use uuid::Uuid;

/// What is held of one sensor under one threshold. Nothing is held of a sensor that has always been inside
/// its limits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    /// The threshold waits for silence, and the sensor speaks.
    Listening(Listening),
    /// An episode that is not closed.
    Running(Box<Episode>),
    /// The last episode is closed.
    Closed(Closed),
}

/// When a sensor spoke last, and what an episode of its silence would begin with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listening {
    pub(crate) version: i64,
    pub(crate) metric: Arc<str>,
    pub(crate) seconds: u32,
    pub(crate) severity: Severity,
    pub(crate) mode: Mode,
    pub(crate) zone_id: Arc<str>,
    pub(crate) device_type: Arc<str>,
    pub(crate) last_reading_at: Timestamp,
    pub(crate) last_received_at: Timestamp,
    /// Offset of the first reading since its last record; none when the record says everything.
    pub(crate) unwritten_since: Option<i64>,
}

/// An episode that is over: a reading that is not newer opens no other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Closed {
    pub(crate) until: Timestamp,
    /// What its record says, until that is written.
    pub(crate) record: Option<Box<Episode>>,
}

/// One value of one reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) sensor_id: &'a str,
    pub(crate) zone_id: &'a str,
    pub(crate) device_type: &'a str,
    pub(crate) at: Timestamp,
    pub(crate) received_at: Timestamp,
    pub(crate) event_id: Uuid,
    pub(crate) value: f64,
    pub(crate) offset: i64,
    pub(crate) reading: &'a ReadingView<'a>,
}

impl Listening {
    /// Begins with a value of the sensor.
    pub(crate) fn new(row: &ThresholdRow, seconds: u32, sample: &Sample<'_>) -> Self {
        Self {
            version: row.version,
            metric: row.metric.as_str().into(),
            seconds,
            severity: row.severity,
            mode: row.mode,
            zone_id: sample.zone_id.into(),
            device_type: sample.device_type.into(),
            last_reading_at: sample.at,
            last_received_at: sample.received_at,
            unwritten_since: None,
        }
    }

    /// Takes a newer value of the sensor.
    pub(crate) fn hear(&mut self, sample: &Sample<'_>) {
        self.last_reading_at = sample.at;
        self.last_received_at = sample.received_at;
        for (kept, new) in [(&mut self.zone_id, sample.zone_id), (&mut self.device_type, sample.device_type)]
        {
            if **kept != *new {
                *kept = new.into();
            }
        }
    }

    /// Returns the instant from which on the sensor counts as silent.
    pub(crate) fn silent_from(&self) -> Timestamp {
        plus(self.last_reading_at, self.seconds)
    }

    /// Begins an episode of silence, which is pending; also the record of a sensor that speaks.
    pub(crate) fn episode(&self, key: &EpisodeKey, since: Timestamp) -> Episode {
        Episode {
            episode_id: Episode::id(key, since),
            threshold_id: key.threshold_id,
            threshold_version: self.version,
            sensor_id: key.sensor_id.clone(),
            metric: self.metric.as_ref().to_owned(),
            severity: self.severity,
            mode: self.mode,
            state: EpisodeState::Pending,
            reason: Reason::NoData,
            bound: Bound { limit: Limit::NoData, value: f64::from(self.seconds) },
            since,
            opened_at: None,
            last_reading_at: self.last_reading_at,
            last_received_at: Some(self.last_received_at),
            last_value: None,
            unit: None,
            last_event_ids: Vec::new(),
            last_violation_at: None,
            occurrences: 0,
            last_alert_at: None,
            extremes: None,
            display_name: None,
            description: None,
            zone_id: self.zone_id.as_ref().to_owned(),
            device_type: self.device_type.as_ref().to_owned(),
        }
    }
}

impl Held {
    /// Closes an episode: readings until that instant open no other.
    pub(crate) fn closed(mut episode: Box<Episode>, until: Timestamp) -> Self {
        episode.state = EpisodeState::Closed;
        episode.since = until;
        Self::Closed(Closed { until, record: Some(episode) })
    }

    /// Reads a record.
    pub(crate) fn of_record(episode: Episode) -> Self {
        let is_listening = episode.state == EpisodeState::Pending
            && episode.reason == Reason::NoData
            && episode.last_violation_at.is_none();
        if episode.state == EpisodeState::Closed {
            return Self::Closed(Closed { until: episode.since, record: None });
        }
        if !is_listening {
            return Self::Running(Box::new(episode));
        }
        Self::Listening(Listening {
            version: episode.threshold_version,
            metric: episode.metric.into(),
            seconds: seconds(&episode.bound),
            severity: episode.severity,
            mode: episode.mode,
            zone_id: episode.zone_id.into(),
            device_type: episode.device_type.into(),
            last_reading_at: episode.last_reading_at,
            last_received_at: episode.last_received_at.unwrap_or(episode.last_reading_at),
            unwritten_since: None,
        })
    }

    /// Returns the record; none for a closed episode whose record is written.
    pub(crate) fn record(&self, key: &EpisodeKey) -> Option<Episode> {
        match self {
            Self::Listening(listening) => Some(listening.episode(key, listening.last_reading_at)),
            Self::Running(episode) => Some(Episode::clone(episode)),
            Self::Closed(closed) => closed.record.as_deref().cloned(),
        }
    }

    /// Says whether somebody was told that it is open, and not that it is over.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Running(episode) if episode.opened_at.is_some())
    }

    /// Returns the version of the threshold and the metric that it is about, unless it is closed.
    pub(crate) fn about(&self) -> Option<(i64, &str)> {
        match self {
            Self::Listening(listening) => Some((listening.version, &listening.metric)),
            Self::Running(episode) => Some((episode.threshold_version, &episode.metric)),
            Self::Closed(_) => None,
        }
    }

    /// Returns where the sensor is and what it is, as its newest reading says.
    pub(crate) fn place(&self) -> (&str, &str) {
        match self {
            Self::Listening(listening) => (&listening.zone_id, &listening.device_type),
            Self::Running(episode) => (&episode.zone_id, &episode.device_type),
            Self::Closed(_) => ("", ""),
        }
    }

    /// Returns event time and arrival of the newest reading.
    pub(crate) fn newest(&self) -> (Timestamp, Timestamp) {
        match self {
            Self::Listening(listening) => (listening.last_reading_at, listening.last_received_at),
            Self::Running(episode) => {
                (episode.last_reading_at, episode.last_received_at.unwrap_or(episode.last_reading_at))
            }
            Self::Closed(closed) => (closed.until, closed.until),
        }
    }
}

/// Returns the seconds of a bound of silence.
pub(crate) fn seconds(bound: &Bound) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "written from a u32, and a cast saturates")]
    let seconds = bound.value as u32;
    seconds
}

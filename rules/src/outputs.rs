//! What a step says: alerts, and what it counted without one. Pure.

use crate::devices::Devices;
use crate::held::Sample;
use crate::limits::{newest, reason};
use crate::seen::Seen;
use crate::summary::summary;
use schema::{
    Alert, Bound, Episode, EpisodeState, EpisodeStep, Mode, Reason, Repeat, Status, ThresholdRow, Timestamp,
};
use uuid::Uuid;

/// Collects what steps say.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The alerts, in the order in which they are to be told.
    pub alerts: Vec<Alert>,
    /// Violations of thresholds in shadow, which alert nobody.
    pub shadow_violations: u64,
    /// Episodes of thresholds in shadow that were opened.
    pub shadow_episodes: u64,
    /// Values of events that had been evaluated before.
    pub repeats: u64,
    /// Violations by readings that came too late to move their episode.
    pub late: u64,
    /// Values of readings older than their threshold's `alert_age_seconds_max`.
    pub aged: u64,
}

/// What one step works with.
pub(crate) struct Step<'a> {
    pub(crate) devices: &'a Devices,
    pub(crate) now: Timestamp,
    pub(crate) seen: &'a mut Seen,
    pub(crate) out: &'a mut Outputs,
}

impl Step<'_> {
    /// Opens an episode.
    pub(crate) fn open(&mut self, episode: &mut Episode, at: Timestamp) {
        (episode.state, episode.since, episode.opened_at) = (EpisodeState::Open, at, Some(at));
        episode.last_alert_at = Some(at);
        if episode.mode == Mode::Shadow {
            self.out.shadow_episodes += 1;
        }
        let why = episode.reason;
        self.speak(episode, EpisodeStep::Opened, why);
    }

    /// Says that an episode continues.
    pub(crate) fn go_on(&mut self, episode: &mut Episode, at: Timestamp) {
        episode.last_alert_at = Some(at);
        let why = episode.reason;
        self.speak(episode, EpisodeStep::Continuing, why);
    }

    /// Says that an episode is closed. The caller forgets it.
    pub(crate) fn close(&mut self, episode: &Episode, why: Reason) {
        if episode.opened_at.is_some() {
            self.speak(episode, EpisodeStep::Closed, why);
        }
    }

    /// Counts a violation that is older than its episode's newest reading: it moves nothing, and speaks where
    /// every one does.
    pub(crate) fn late(
        &mut self,
        row: &ThresholdRow,
        episode: &Episode,
        sample: &Sample<'_>,
        met: Option<Bound>,
    ) {
        let Some(bound) = met else { return };
        if self.seen.knows(row.threshold_id, sample.event_id) {
            self.out.repeats += 1;
            return;
        }
        self.out.late += 1;
        if row.repeat == Repeat::Every && episode.opened_at.is_some_and(|opened| opened <= sample.at) {
            let mut of_sample = episode.clone();
            (of_sample.bound, of_sample.reason) = (bound, reason(bound.limit));
            of_sample.last_reading_at = sample.at;
            of_sample.last_value = Some(sample.value);
            of_sample.unit = sample.reading.unit(&row.metric).map(str::to_owned).or(of_sample.unit);
            of_sample.last_event_ids = vec![sample.event_id];
            let why = of_sample.reason;
            self.speak(&of_sample, EpisodeStep::Continuing, why);
        }
    }

    fn speak(&mut self, episode: &Episode, what: EpisodeStep, why: Reason) {
        if episode.mode != Mode::Live {
            return;
        }
        let caused_by = match why {
            Reason::Above | Reason::Below | Reason::Recovered => newest(episode),
            Reason::NoData
            | Reason::RuleChanged
            | Reason::RuleOff
            | Reason::RuleDeleted
            | Reason::DeviceGone => None,
        };
        // That an episode opens or closes is known from its state, whatever its event is called.
        if let Some((_, event_id)) = caused_by
            && !self.seen.insert(episode.threshold_id, event_id)
            && what == EpisodeStep::Continuing
        {
            self.out.repeats += 1;
            return;
        }
        let alert = self.alert(episode, what, why, caused_by);
        self.out.alerts.push(alert);
    }

    fn alert(
        &self,
        episode: &Episode,
        what: EpisodeStep,
        why: Reason,
        caused_by: Option<(f64, Uuid)>,
    ) -> Alert {
        let Episode { threshold_id, threshold_version: version, .. } = *episode;
        let alert_id = match (caused_by, what) {
            (Some((_, event_id)), _) => Alert::id(threshold_id, version, event_id),
            (None, EpisodeStep::Closed) => {
                Alert::id(threshold_id, version, Uuid::new_v5(&episode.episode_id, b"closed"))
            }
            (None, EpisodeStep::Opened | EpisodeStep::Continuing) => {
                Alert::id(threshold_id, version, episode.episode_id)
            }
        };
        let display_name = self.devices.display_name(&episode.sensor_id).map(str::to_owned);
        let mut alert = Alert {
            alert_id,
            status: if what == EpisodeStep::Closed { Status::Resolved } else { Status::Firing },
            episode_id: Some(episode.episode_id),
            episode: Some(what),
            reason: Some(why),
            sensor_id: episode.sensor_id.clone(),
            display_name: display_name.or_else(|| episode.display_name.clone()),
            metric: episode.metric.clone(),
            unit: episode.unit.clone(),
            value: caused_by.map(|(value, _)| value),
            bound: episode.bound,
            severity: episode.severity,
            threshold_id,
            threshold_version: version,
            description: episode.description.clone(),
            summary: None,
            reading_at: episode.last_reading_at,
            detected_at: self.now,
            opened_at: episode.opened_at,
            occurrences: Some(episode.occurrences).filter(|count| *count > 0),
            silenced_by: None,
            zone_id: episode.zone_id.clone(),
            device_type: episode.device_type.clone(),
            event_id: caused_by.map(|(_, event_id)| event_id),
        };
        alert.summary = Some(summary(&alert));
        alert
    }
}

//! A threshold with limits: values against them, and what they do to an episode. Pure.

use crate::held::{Held, Sample};
use crate::outputs::Step;
use crate::time::plus;
use schema::{
    Bound, Episode, EpisodeKey, EpisodeState, Extremes, Limit, Mode, Reason, Repeat, ThresholdRow, Timestamp,
};
use uuid::Uuid;

/// Most events of one instant that an episode remembers.
const EVENTS_MAX: usize = 8;

/// Returns the limit that a value is beyond. A value on the limit is inside.
pub(crate) fn violated(row: &ThresholdRow, value: f64) -> Option<Bound> {
    let below = row.min_value.filter(|min| value < *min);
    let above = row.max_value.filter(|max| value > *max);
    below
        .map(|value| Bound { limit: Limit::Min, value })
        .or(above.map(|value| Bound { limit: Limit::Max, value }))
}

/// Says whether a value, which is inside the limits, is far enough from the one that was met last.
fn is_recovered(row: &ThresholdRow, met: Limit, value: f64) -> bool {
    match met {
        Limit::Min => row.min_value.is_none_or(|min| value >= min + row.hysteresis),
        Limit::Max | Limit::NoData => row.max_value.is_none_or(|max| value <= max - row.hysteresis),
    }
}

/// Returns the instant at which time alone moves an episode on.
pub(crate) fn due(row: &ThresholdRow, episode: &Episode) -> Option<Timestamp> {
    match episode.state {
        EpisodeState::Pending => Some(plus(episode.since, row.for_seconds)),
        EpisodeState::Closing => Some(plus(episode.since, row.keep_firing_seconds)),
        EpisodeState::Open | EpisodeState::Closed => None,
    }
}

/// Moves an episode on by what was due before an instant: the last value holds until the next one.
pub(crate) fn advance(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    mut episode: Box<Episode>,
    before: Timestamp,
) -> Held {
    match (due(row, &episode), episode.state) {
        (Some(due), EpisodeState::Pending) if due < before => step.open(&mut episode, due),
        (Some(due), EpisodeState::Closing) if due < before => {
            step.close(&episode, Reason::Recovered);
            let until = episode.last_reading_at;
            return Held::closed(episode, until);
        }
        _ => {}
    }
    Held::Running(episode)
}

/// Evaluates a value.
pub(crate) fn evaluate(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    held: Option<Held>,
    sample: &Sample<'_>,
) -> Option<Held> {
    let met = violated(row, sample.value);
    let held = match held {
        Some(Held::Running(episode)) if sample.at < episode.last_reading_at => {
            step.late(row, &episode, sample, met);
            return Some(Held::Running(episode));
        }
        Some(Held::Running(episode)) if is_known(&episode, sample) => {
            step.out.repeats += 1;
            return Some(Held::Running(episode));
        }
        // Of one instant the violation counts, in whatever order its values come, and come again.
        Some(Held::Running(episode)) if met.is_none() && episode.last_violation_at == Some(sample.at) => {
            return Some(Held::Running(episode));
        }
        Some(Held::Running(episode)) => Some(advance(step, row, episode, sample.at)),
        other => other,
    };
    match (held, met) {
        (Some(Held::Running(episode)), _) => Some(apply(step, row, episode, sample, met)),
        (held, None) => held,
        (Some(Held::Closed(closed)), Some(_)) if sample.at <= closed.until => {
            step.out.late += 1;
            Some(Held::Closed(closed))
        }
        (held, Some(bound)) => begin(step, row, held, sample, bound),
    }
}

fn is_known(episode: &Episode, sample: &Sample<'_>) -> bool {
    sample.at == episode.last_reading_at && episode.last_event_ids.contains(&sample.event_id)
}

fn begin(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    held: Option<Held>,
    sample: &Sample<'_>,
    bound: Bound,
) -> Option<Held> {
    if step.seen.knows(row.threshold_id, sample.event_id) {
        step.out.repeats += 1;
        return held;
    }
    let key = EpisodeKey { threshold_id: row.threshold_id, sensor_id: sample.sensor_id.to_owned() };
    let mut episode = Box::new(Episode {
        episode_id: Episode::id(&key, sample.at),
        threshold_id: key.threshold_id,
        threshold_version: row.version,
        sensor_id: key.sensor_id,
        metric: row.metric.clone(),
        severity: row.severity,
        mode: row.mode,
        state: EpisodeState::Pending,
        reason: reason(bound.limit),
        bound,
        since: sample.at,
        opened_at: None,
        last_reading_at: sample.at,
        last_received_at: None,
        last_value: None,
        unit: None,
        last_event_ids: Vec::new(),
        last_violation_at: None,
        occurrences: 0,
        last_alert_at: None,
        extremes: None,
        display_name: None,
        description: Some(row.description.clone()).filter(|text| !text.is_empty()),
        zone_id: String::new(),
        device_type: String::new(),
    });
    take(&mut episode, sample);
    count(step, &mut episode, sample, bound);
    if row.for_seconds == 0 {
        step.open(&mut episode, sample.at);
    }
    Some(Held::Running(episode))
}

/// Applies a value that is not older than any before it.
fn apply(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    mut episode: Box<Episode>,
    sample: &Sample<'_>,
    met: Option<Bound>,
) -> Held {
    take(&mut episode, sample);
    let is_recovered = met.is_none() && is_recovered(row, episode.bound.limit, sample.value);
    if let Some(bound) = met {
        count(step, &mut episode, sample, bound);
    }
    let lasts = |since: Timestamp, seconds: u32| plus(since, seconds) <= sample.at;
    match (episode.state, met) {
        (EpisodeState::Pending, Some(_)) => {
            if lasts(episode.since, row.for_seconds) {
                step.open(&mut episode, sample.at);
            }
        }
        // Nobody was told of it, so nobody hears that it is over.
        (EpisodeState::Pending, None) => return Held::closed(episode, sample.at),
        (EpisodeState::Open | EpisodeState::Closing | EpisodeState::Closed, Some(_)) => {
            enter(&mut episode, EpisodeState::Open, sample.at);
            continues(step, row, &mut episode, sample);
        }
        (EpisodeState::Open | EpisodeState::Closing | EpisodeState::Closed, None) if is_recovered => {
            enter(&mut episode, EpisodeState::Closing, sample.at);
            if lasts(episode.since, row.keep_firing_seconds) {
                step.close(&episode, Reason::Recovered);
                return Held::closed(episode, sample.at);
            }
        }
        (EpisodeState::Open | EpisodeState::Closing | EpisodeState::Closed, None) => {
            enter(&mut episode, EpisodeState::Open, sample.at);
        }
    }
    Held::Running(episode)
}

fn enter(episode: &mut Episode, state: EpisodeState, at: Timestamp) {
    if episode.state != state {
        (episode.state, episode.since) = (state, at);
    }
}

/// Speaks again if the threshold wants it.
fn continues(step: &mut Step<'_>, row: &ThresholdRow, episode: &mut Episode, sample: &Sample<'_>) {
    let is_wanted = match (row.repeat, episode.last_alert_at) {
        (Repeat::Every, _) | (_, None) => true,
        (Repeat::Never, _) => false,
        (Repeat::Seconds(seconds), Some(last)) => plus(last, seconds) <= sample.at,
    };
    if is_wanted {
        step.go_on(episode, sample.at);
    }
}

/// Takes over what the newest reading says.
pub(crate) fn take(episode: &mut Episode, sample: &Sample<'_>) {
    if sample.at > episode.last_reading_at {
        episode.last_event_ids.clear();
    }
    if episode.last_event_ids.len() == EVENTS_MAX {
        episode.last_event_ids.remove(0);
    }
    episode.last_event_ids.push(sample.event_id);
    episode.last_reading_at = sample.at;
    episode.last_received_at = Some(sample.received_at);
    episode.last_value = Some(sample.value);
    if let Some(unit) = sample.reading.unit(&episode.metric)
        && episode.unit.as_deref() != Some(unit)
    {
        episode.unit = Some(unit.to_owned());
    }
    if let Some(extremes) = &mut episode.extremes {
        extremes.min = extremes.min.min(sample.value);
        extremes.max = extremes.max.max(sample.value);
    }
    for (kept, new) in
        [(&mut episode.zone_id, sample.zone_id), (&mut episode.device_type, sample.device_type)]
    {
        if kept != new {
            new.clone_into(kept);
        }
    }
}

/// Counts a violation.
fn count(step: &mut Step<'_>, episode: &mut Episode, sample: &Sample<'_>, bound: Bound) {
    episode.occurrences += 1;
    episode.last_violation_at = Some(sample.at);
    (episode.bound, episode.reason) = (bound, reason(bound.limit));
    episode.extremes.get_or_insert(Extremes { min: sample.value, max: sample.value });
    if episode.mode == Mode::Shadow {
        step.out.shadow_violations += 1;
    }
}

/// Returns why there is an alert of a limit.
pub(crate) fn reason(limit: Limit) -> Reason {
    match limit {
        Limit::Min => Reason::Below,
        Limit::Max => Reason::Above,
        Limit::NoData => Reason::NoData,
    }
}

/// Returns the value and the event of the newest reading.
pub(crate) fn newest(episode: &Episode) -> Option<(f64, Uuid)> {
    episode.last_value.zip(episode.last_event_ids.last().copied())
}

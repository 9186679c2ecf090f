//! A threshold that waits for silence: no newer reading of its metric for too long. Pure.

use crate::held::{Held, Listening, Sample, seconds};
use crate::limits;
use crate::outputs::Step;
use crate::time::plus;
use schema::{Episode, EpisodeKey, EpisodeState, Reason, ThresholdRow, Timestamp};

/// Returns the instant at which time alone moves an episode of silence on.
pub(crate) fn due(row: &ThresholdRow, episode: &Episode) -> Option<Timestamp> {
    match episode.state {
        EpisodeState::Closing => limits::due(row, episode).map(|due| due.min(silent_from(episode))),
        _ => limits::due(row, episode),
    }
}

/// Returns the instant from which on a sensor that speaks again counts as silent once more.
fn silent_from(episode: &Episode) -> Timestamp {
    plus(episode.last_reading_at, seconds(&episode.bound))
}

/// Moves what is held on by what was due before an instant.
pub(crate) fn advance(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    key: &EpisodeKey,
    held: Held,
    before: Timestamp,
) -> Held {
    let mut held = held;
    // Listening, pending, open: at most two moves; closing, listening, pending, open: at most three.
    loop {
        held = match held {
            Held::Listening(listening) if listening.silent_from() < before => {
                let since = listening.silent_from();
                let mut episode = Box::new(listening.episode(key, since));
                episode.last_violation_at = Some(since);
                episode.description = Some(row.description.clone()).filter(|text| !text.is_empty());
                Held::Running(episode)
            }
            Held::Running(mut episode) => match (due(row, &episode), episode.state) {
                (Some(due), EpisodeState::Pending) if due < before => {
                    step.open(&mut episode, due);
                    Held::Running(episode)
                }
                (Some(due), EpisodeState::Closing) if due < before => {
                    if limits::due(row, &episode) == Some(due) {
                        step.close(&episode, Reason::Recovered);
                        Held::Listening(listening(row, &episode))
                    } else {
                        (episode.state, episode.since) = (EpisodeState::Open, due);
                        Held::Running(episode)
                    }
                }
                _ => return Held::Running(episode),
            },
            held => return held,
        };
    }
}

/// Evaluates that the sensor speaks.
pub(crate) fn evaluate(
    step: &mut Step<'_>,
    row: &ThresholdRow,
    silence: u32,
    held: Option<Held>,
    sample: &Sample<'_>,
) -> Held {
    let key = EpisodeKey { threshold_id: row.threshold_id, sensor_id: sample.sensor_id.to_owned() };
    let held = match held {
        None => return Held::Listening(Listening::new(row, silence, sample)),
        Some(held) if sample.at <= held.newest().0 => return held,
        Some(Held::Closed(_)) => return Held::Listening(Listening::new(row, silence, sample)),
        Some(held) => advance(step, row, &key, held, sample.at),
    };
    match held {
        Held::Listening(mut listening) => {
            listening.hear(sample);
            Held::Listening(listening)
        }
        Held::Running(mut episode) => {
            limits::take(&mut episode, sample);
            match episode.state {
                EpisodeState::Pending => Held::Listening(listening(row, &episode)),
                _ => {
                    if episode.state != EpisodeState::Closing {
                        (episode.state, episode.since) = (EpisodeState::Closing, sample.at);
                    }
                    if plus(episode.since, row.keep_firing_seconds) <= sample.at {
                        step.close(&episode, Reason::Recovered);
                        Held::Listening(listening(row, &episode))
                    } else {
                        Held::Running(episode)
                    }
                }
            }
        }
        Held::Closed(closed) => Held::Closed(closed),
    }
}

/// Listens again after an episode.
fn listening(row: &ThresholdRow, episode: &Episode) -> Listening {
    Listening {
        version: episode.threshold_version,
        metric: episode.metric.as_str().into(),
        seconds: row.no_data_seconds.unwrap_or_else(|| seconds(&episode.bound)),
        severity: episode.severity,
        mode: episode.mode,
        zone_id: episode.zone_id.as_str().into(),
        device_type: episode.device_type.as_str().into(),
        last_reading_at: episode.last_reading_at,
        last_received_at: episode.last_received_at.unwrap_or(episode.last_reading_at),
        unwritten_since: None,
    }
}

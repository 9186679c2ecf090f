//! Episodes of one sensor, second by second, by the words of the decision alone.

use crate::stage::{Reading, Stage, second, seconds_of, threshold};
use proptest::prelude::*;
use schema::{EpisodeStep, Repeat, ThresholdRow};

/// An episode: when it was opened, how many readings violated, and whether it is over.
type Told = (i64, u64, bool);

/// Looks at every second: the last value holds until the next.
fn limits(row: &ThresholdRow, readings: &[(i64, f64)], end: i64) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let (mut outside, mut inside) = (None, None);
    let (mut is_open, mut was_above, mut count) = (false, false, 0);
    for now in 0..=end {
        if let Some((_, value)) = readings.iter().find(|(at, _)| *at == now) {
            let above = row.max_value.is_some_and(|max| *value > max);
            let violates = above || row.min_value.is_some_and(|min| *value < min);
            let recovers = if violates {
                was_above = above;
                false
            } else if was_above {
                row.max_value.is_none_or(|max| *value <= max - row.hysteresis)
            } else {
                row.min_value.is_none_or(|min| *value >= min + row.hysteresis)
            };
            if violates {
                count = if is_open || outside.is_some() { count + 1 } else { 1 };
            }
            if is_open {
                inside = if recovers { inside.or(Some(now)) } else { None };
                told.last_mut().unwrap().1 = count;
            } else {
                outside = if violates { outside.or(Some(now)) } else { None };
            }
        }
        if !is_open && outside.is_some_and(|since| now - since >= i64::from(row.for_seconds)) {
            told.push((now, count, false));
            (is_open, outside, inside) = (true, None, None);
        } else if is_open && inside.is_some_and(|since| now - since >= i64::from(row.keep_firing_seconds)) {
            told.last_mut().unwrap().2 = true;
            (is_open, inside) = (false, None);
        }
    }
    told
}

/// Looks at every second whether the last reading is too long ago.
fn silences(silence: i64, readings: &[(i64, f64)], end: i64) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut last = None;
    for now in 0..=end {
        if readings.iter().any(|(at, _)| *at == now) {
            if let Some((_, _, is_over)) = told.last_mut() {
                *is_over = true;
            }
            last = Some(now);
        } else if last.is_some_and(|last| now - last == silence) {
            told.push((now, 0, false));
        }
    }
    told
}

fn episodes(stage: &mut Stage) -> Vec<Told> {
    stage.commit();
    let mut told: Vec<Told> = Vec::new();
    for alert in &stage.alerts {
        let opened = seconds_of(alert.opened_at.unwrap());
        let count = alert.occurrences.unwrap_or(0);
        if alert.episode == Some(EpisodeStep::Opened) {
            told.push((opened, count, false));
        }
        let episode = told.last_mut().expect("an episode is opened before anything else");
        assert_eq!(episode.0, opened);
        (episode.1, episode.2) = (count, alert.episode == Some(EpisodeStep::Closed));
    }
    told
}

/// Gaps and values of one sensor.
fn any_readings() -> impl Strategy<Value = Vec<(i64, f64)>> {
    prop::collection::vec((1_i64..9, 0_i32..8), 0..40).prop_map(|steps| {
        let mut at = 0;
        let reading = |(gap, value): (i64, i32)| {
            at += gap;
            (at, f64::from(value))
        };
        steps.into_iter().map(reading).collect()
    })
}

proptest! {
    #[test]
    fn limits_have_the_episodes_that_a_look_at_every_second_finds(
        readings in any_readings(),
        min in prop::option::of(1_i32..3),
        max in 3_i32..7,
        hysteresis in 0_i32..3,
        for_seconds in 0_u32..12,
        keep_firing_seconds in 0_u32..12,
        ticks: bool,
    ) {
        let row = ThresholdRow {
            min_value: min.map(f64::from),
            max_value: Some(f64::from(max)),
            hysteresis: f64::from(hysteresis),
            for_seconds,
            keep_firing_seconds,
            ..threshold(1)
        };
        let mut stage = Stage::new([row.clone()]);
        let end = readings.last().map_or(0, |(at, _)| *at) + 20;
        let mut last = 0;
        for (at, value) in &readings {
            for now in last + 1..*at {
                if ticks {
                    stage.tick(now);
                }
            }
            last = *at;
            stage.read(&Reading::new("s", *at, *value));
        }
        stage.tick(end);
        prop_assert_eq!(episodes(&mut stage), limits(&row, &readings, end));
    }

    #[test]
    fn silence_has_the_episodes_that_a_look_at_every_second_finds(
        readings in any_readings(),
        silence in 1_u32..12,
        ticks: bool,
    ) {
        let row = ThresholdRow {
            max_value: None, no_data_seconds: Some(silence), repeat: Repeat::Never, ..threshold(1)
        };
        let mut stage = Stage::new([row]);
        let end = readings.last().map_or(0, |(at, _)| *at) + 20;
        let mut last = 0;
        for (at, value) in &readings {
            for now in last + 1..*at {
                if ticks {
                    stage.tick(now);
                }
            }
            last = *at;
            stage.read(&Reading::new("s", *at, *value));
        }
        stage.tick(end);
        prop_assert_eq!(episodes(&mut stage), silences(i64::from(silence), &readings, end));
        let is_due = stage.episodes.next_due().is_some_and(|due| due <= second(end));
        prop_assert!(!is_due, "a timer that was due is left");
    }
}

//! Any interleaving, any restart and any duplicate tell the same.

use crate::stage::{Reading, Stage, threshold};
use proptest::prelude::*;
use rules::{DedupWindow, Devices, Episodes, Input, Outputs, Rules, Tables};
use schema::{Mode, ReadingView, Repeat, Scope, Severity, ThresholdRow, Timestamp};
use uuid::Uuid;

const SENSORS: [&str; 3] = ["a", "b", "c"];

/// What happens beside the readings, which nobody may notice.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    Tick,
    Commit,
    Restart,
    Abort,
    /// An earlier reading comes again.
    Again(usize),
}

fn any_beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        Just(Beside::Nothing),
        Just(Beside::Tick),
        Just(Beside::Commit),
        Just(Beside::Restart),
        Just(Beside::Abort),
        (0_usize..100).prop_map(Beside::Again),
    ]
}

fn any_row(id: u128) -> impl Strategy<Value = ThresholdRow> {
    let scope = prop_oneof![
        prop::sample::select(&SENSORS[..]).prop_map(|sensor| Scope::Sensor(sensor.to_owned())),
        Just(Scope::Zone("z".to_owned())),
        Just(Scope::DeviceType("T".to_owned())),
        Just(Scope::ZoneAndType { zone_id: "z".to_owned(), device_type: "T".to_owned() }),
    ];
    let repeat = prop_oneof![Just(Repeat::Every), Just(Repeat::Never), (1_u32..20).prop_map(Repeat::Seconds)];
    let mode = prop_oneof![4 => Just(Mode::Live), 1 => Just(Mode::Shadow), 1 => Just(Mode::Off)];
    let severity = prop_oneof![Just(Severity::Info), Just(Severity::Critical)];
    let silence = prop::option::of(1_u32..12);
    let times = (0_u32..8, 0_u32..8, 0_i32..3);
    (scope, repeat, mode, severity, silence, 2_i32..7, times).prop_map(
        move |(
            scope,
            repeat,
            mode,
            severity,
            silence,
            max,
            (for_seconds, keep_firing_seconds, hysteresis),
        )| {
            ThresholdRow {
                scope,
                repeat,
                mode,
                severity,
                no_data_seconds: silence,
                max_value: silence.is_none().then(|| f64::from(max)),
                for_seconds,
                keep_firing_seconds,
                hysteresis: f64::from(hysteresis),
                ..threshold(id)
            }
        },
    )
}

/// A reading, perhaps older than the one before, and what happens after it.
type Turn = ((usize, i64, i64, i32), Beside);

fn any_turns() -> impl Strategy<Value = Vec<Turn>> {
    let late = prop_oneof![5 => Just(0_i64), 1 => 1_i64..20];
    prop::collection::vec(((0_usize..3, 0_i64..6, late, 0_i32..9), any_beside()), 0..60)
}

fn readings(turns: &[Turn]) -> Vec<Reading> {
    let mut now = 100;
    let mut readings = Vec::new();
    for ((sensor, gap, late, value), _) in turns {
        now += gap;
        let reading = Reading::new(SENSORS[*sensor], now - late, f64::from(*value));
        // Devices of one clock: what comes late was under way for that time.
        let event = (u128::try_from(readings.len()).unwrap() << 96) | reading.event;
        readings.push(Reading { received: now, event, ..reading });
    }
    readings
}

proptest! {
    #[test]
    fn any_restarts_aborts_and_duplicates_tell_the_same(
        turns in any_turns(),
        rows in (any_row(1), any_row(2), any_row(3), any_row(4)),
        on_time: bool,
    ) {
        let rows = [rows.0, rows.1, rows.2, rows.3];
        let mut readings = readings(&turns);
        if on_time {
            readings.iter_mut().for_each(|reading| reading.at = reading.received);
        }
        let (mut plain, mut other) = (Stage::new(rows.clone()), Stage::new(rows));
        for (place, (reading, (_, beside))) in readings.iter().zip(&turns).enumerate() {
            plain.read(reading);
            other.read(reading);
            match beside {
                Beside::Nothing => {}
                Beside::Tick => {
                    plain.tick(reading.received);
                    other.commit();
                    other.tick(reading.received);
                    other.commit();
                }
                Beside::Commit => other.commit(),
                Beside::Restart => other.restart(),
                Beside::Abort => other.abort(),
                // Of a value inside nothing is held: coming again behind a late violation, it tells its end.
                Beside::Again(back) if on_time => other.read(&readings[place.saturating_sub(*back)]),
                Beside::Again(_) => {}
            }
        }
        let end = readings.last().map_or(100, |reading| reading.received) + 60;
        plain.tick(end);
        other.restart();
        other.tick(end);
        prop_assert_eq!(plain.told(), other.told());
    }

    // Without readings that come late, the clock tells nothing that the next reading would not have told.
    #[test]
    fn any_ticks_tell_the_same(
        turns in any_turns(),
        rows in (any_row(1), any_row(2), any_row(3), any_row(4)),
    ) {
        let rows = [rows.0, rows.1, rows.2, rows.3];
        let on_time = |reading: Reading| Reading { at: reading.received, ..reading };
        let readings: Vec<_> = readings(&turns).into_iter().map(on_time).collect();
        let (mut plain, mut other) = (Stage::new(rows.clone()), Stage::new(rows));
        for (reading, (_, beside)) in readings.iter().zip(&turns) {
            other.tick(reading.received - 1);
            plain.read(reading);
            other.read(reading);
            if matches!(beside, Beside::Restart) {
                other.restart();
            }
        }
        let end = readings.last().map_or(100, |reading| reading.received) + 60;
        plain.tick(end);
        other.tick(end);
        prop_assert_eq!(plain.told(), other.told());
    }

    #[test]
    fn any_partitioning_tells_the_same(
        turns in any_turns(),
        rows in (any_row(1), any_row(2), any_row(3), any_row(4)),
    ) {
        let rows = [rows.0, rows.1, rows.2, rows.3];
        let readings = readings(&turns);
        let end = readings.last().map_or(100, |reading| reading.received) + 60;
        let mut together = Stage::new(rows.clone());
        readings.iter().for_each(|reading| together.read(reading));
        together.tick(end);
        let together = together.told();
        for sensor in SENSORS {
            let mut apart = Stage::new(rows.clone());
            readings.iter().filter(|reading| reading.sensor == sensor).for_each(|reading| apart.read(reading));
            apart.tick(end);
            let mut of_sensor = together.clone();
            of_sensor.retain(|(of, _), _| of == sensor);
            prop_assert_eq!(apart.told(), of_sensor);
        }
    }

    #[test]
    fn any_changes_leave_episodes_that_open_and_close_in_turn(
        turns in any_turns(),
        changes in prop::collection::vec((0_usize..60, 1_u128..4, prop::option::of(any_row(0))), 0..12),
    ) {
        let mut stage = Stage::new([]);
        let readings = readings(&turns);
        for (place, reading) in readings.iter().enumerate() {
            stage.read(reading);
            let here = changes.iter().filter(|(at, ..)| *at == place);
            for (version, (_, id, row)) in (2..).zip(here) {
                let threshold_id = Uuid::from_u128(*id);
                match row {
                    Some(row) => {
                        let version = i64::try_from(place).unwrap() * 100 + version;
                        let updated_at = crate::stage::second(reading.received);
                        let row = ThresholdRow { threshold_id, version, updated_at, ..row.clone() };
                        stage.put(row, reading.received);
                    }
                    None => {
                        if let Some(touched) = stage.rules.remove(threshold_id) {
                            stage.step(Input::RuleChanged(&touched), reading.received);
                        }
                    }
                }
            }
            if place % 7 == 0 {
                stage.commit();
                stage.restart();
            }
        }
        for id in 1..4 {
            if let Some(touched) = stage.rules.remove(Uuid::from_u128(id)) {
                stage.step(Input::RuleChanged(&touched), 1_000);
            }
        }
        for (place, alerts) in stage.told() {
            let mut open = None;
            for alert in alerts {
                use schema::EpisodeStep::{Closed, Continuing, Opened};
                let id = alert.episode_id;
                open = match (alert.episode.unwrap(), open) {
                    (Opened, None) => id,
                    (Continuing, Some(_)) if open == id => open,
                    (Closed, Some(_)) if open == id => None,
                    (step, open) => panic!("{place:?}: {step:?} while {open:?} is open"),
                };
            }
            prop_assert_eq!(open, None, "{:?}: every rule is gone", place);
        }
        prop_assert_eq!(stage.episodes.open_count(), 0);
    }

    #[test]
    fn any_times_and_values_are_evaluated_without_a_panic(
        rows in prop::collection::vec(
            (any::<Option<f64>>(), any::<Option<f64>>(), any::<Option<u32>>(), any::<(f64, u32, u32)>(), any::<Option<u32>>()),
            0..4,
        ),
        steps in prop::collection::vec((any::<i64>(), any::<i64>(), any::<f64>(), any::<bool>()), 0..20),
    ) {
        let mut tables = Rules::default();
        for (id, (min_value, max_value, no_data_seconds, (hysteresis, for_seconds, keep), age)) in (0..).zip(rows) {
            tables.put(ThresholdRow {
                min_value, max_value, no_data_seconds, hysteresis, for_seconds, keep_firing_seconds: keep,
                alert_age_seconds_max: age, updated_at: instant(i64::MIN), ..threshold(id)
            });
        }
        let (devices, mut out) = (Devices::default(), Outputs::default());
        let tables = Tables { rules: &tables, devices: &devices };
        let mut episodes = Episodes::new(DedupWindow::new(3), 3);
        for (offset, (read, received, value, is_tick)) in (i64::MAX - 20..).zip(steps) {
            let reading = Reading::new("s", 0, value);
            let (reading_at, received_at) = (instant(read), instant(received));
            let view = ReadingView { reading_at, received_at, ..reading.view() };
            if is_tick {
                episodes.step(tables, Input::Tick, instant(received), &mut out);
                episodes.changes(instant(received));
                episodes.abort();
            } else {
                episodes.step(tables, Input::Reading(&view, offset), instant(received), &mut out);
            }
        }
    }
}

/// Any instant, whatever its number.
fn instant(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.clamp(-62_135_596_800_000_000, 253_402_300_799_999_999)).unwrap()
}

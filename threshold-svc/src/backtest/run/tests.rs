//! A backtest beside the live evaluation of the same readings.

use super::*;
use proptest::prelude::*;
use schema::{Alert, EpisodeStep, Mode, Repeat, Scope, Severity};
use std::collections::BTreeMap;

const SENSORS: [&str; 3] = ["a", "b", "c"];
/// Seconds of a step of time: some dozens of readings are a day.
const STEP: u32 = 240;
/// Alerts and closed episodes that the live partition remembers; more than any test has.
const REMEMBERED: usize = 10_000;

fn second(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000 + seconds * 1_000_000).unwrap()
}

/// One value of a sensor, and when it arrived.
#[derive(Clone, Copy, Debug)]
struct Reading {
    sensor: &'static str,
    at: Timestamp,
    received: Timestamp,
    value: f64,
    event_id: Uuid,
}

/// What happens after a reading where it is evaluated live, which nobody may notice.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    /// The clock is looked at some seconds after the reading, but before the next one.
    Tick(i64),
    Commit,
    /// An earlier reading is delivered again.
    Again(usize),
}

fn any_beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        Just(Beside::Nothing),
        (0_i64..3_000).prop_map(Beside::Tick),
        Just(Beside::Commit),
        (0_usize..20).prop_map(Beside::Again),
    ]
}

/// A threshold of one purpose: a limit, or silence.
fn any_row(id: u128, is_silence: bool) -> impl Strategy<Value = ThresholdRow> {
    let scope = prop_oneof![
        prop::sample::select(&SENSORS[..]).prop_map(|sensor| Scope::Sensor(sensor.to_owned())),
        Just(Scope::Zone("z".to_owned())),
        Just(Scope::DeviceType("T".to_owned())),
        Just(Scope::ZoneAndType { zone_id: "z".to_owned(), device_type: "T".to_owned() }),
    ];
    let repeat = prop_oneof![
        Just(Repeat::Every),
        Just(Repeat::Never),
        (1_u32..20).prop_map(|n| Repeat::Seconds(n * STEP))
    ];
    let times = (0_u32..8, 0_u32..8, 1_u32..12, 0_i32..3);
    (scope, repeat, 2_i32..7, times).prop_map(move |(scope, repeat, max, times)| {
        let (for_steps, keep_firing_steps, silence_steps, hysteresis) = times;
        ThresholdRow {
            threshold_id: Uuid::from_u128(id),
            scope,
            metric: "m".to_owned(),
            min_value: None,
            max_value: (!is_silence).then(|| f64::from(max)),
            no_data_seconds: is_silence.then_some(silence_steps * STEP),
            hysteresis: if is_silence { 0.0 } else { f64::from(hysteresis) },
            for_seconds: if is_silence { 0 } else { for_steps * STEP },
            keep_firing_seconds: keep_firing_steps * STEP,
            repeat,
            alert_age_seconds_max: None,
            severity: Severity::Warning,
            mode: Mode::Live,
            description: String::new(),
            version: 1,
            created_at: second(0),
            updated_at: second(0),
            updated_by: String::new(),
        }
    })
}

fn any_rows() -> impl Strategy<Value = [ThresholdRow; 3]> {
    any::<bool>().prop_flat_map(|is_silence| [1, 2, 3].map(|id| any_row(id, is_silence)))
}

/// Readings that arrive in the order of their instants, within the grace for what is under way.
fn any_day() -> impl Strategy<Value = Vec<(Reading, Beside)>> {
    let turn = (0_usize..3, 0_u32..6, 0_i64..=GRACE_MICROS, 0_i32..9, any_beside());
    prop::collection::vec(turn, 0..80).prop_map(|turns| {
        let (mut at, mut received) = (second(0), second(0));
        let read =
            |(number, (sensor, steps, delay, value, beside)): (u128, (usize, u32, i64, i32, Beside))| {
                at = moved(at, i64::from(steps * STEP) * 1_000_000);
                received = received.max(moved(at, delay));
                let (sensor, event_id) = (SENSORS[sensor], Uuid::from_u128(number));
                (Reading { sensor, at, received, value: f64::from(value), event_id }, beside)
            };
        (1..).zip(turns).map(read).collect()
    })
}

fn moved(instant: Timestamp, micros: i64) -> Timestamp {
    Timestamp::from_micros(instant.as_micros() + micros).unwrap()
}

/// Alerts by sensor and threshold, without the time at which somebody looked.
type Told = BTreeMap<(String, Uuid), Vec<Alert>>;

fn told(alerts: &[Alert]) -> Told {
    let mut told = Told::new();
    for alert in alerts {
        let alert = Alert { detected_at: second(0), ..alert.clone() };
        told.entry((alert.sensor_id.clone(), alert.threshold_id)).or_default().push(alert);
    }
    told
}

/// Evaluates a day as alerting-svc does: in the order of arrival, by its clock.
fn live(rows: &[ThresholdRow], day: &[(Reading, Beside)], end: Timestamp) -> Vec<Alert> {
    let mut rules = Rules::default();
    for row in rows {
        rules.put(row.clone());
    }
    let devices = Devices::default();
    let tables = Tables { rules: &rules, devices: &devices };
    let mut episodes = Episodes::new(DedupWindow::new(REMEMBERED), REMEMBERED);
    let mut out = Outputs::default();
    let read = |episodes: &mut Episodes, out: &mut Outputs, place: usize, now: Timestamp| {
        let reading = day[place].0;
        let view = ReadingView {
            event_id: reading.event_id,
            sensor_id: reading.sensor.into(),
            device_type: "T".into(),
            zone_id: "z".into(),
            values: vec![("m".into(), reading.value)],
            attributes: serde_json::Map::new(),
            reading_at: reading.at,
            received_at: reading.received,
        };
        episodes.step(tables, Input::Reading(&view, i64::try_from(place).unwrap()), now, out);
    };
    for (place, (reading, beside)) in day.iter().enumerate() {
        read(&mut episodes, &mut out, place, reading.received);
        match beside {
            Beside::Nothing => {}
            Beside::Tick(seconds) => {
                let next = day.get(place + 1).map_or(end, |(next, _)| next.received);
                let now = moved(reading.received, seconds * 1_000_000).min(next);
                episodes.step(tables, Input::Tick, now, &mut out);
            }
            Beside::Commit => episodes.commit(),
            Beside::Again(back) => {
                read(&mut episodes, &mut out, place.saturating_sub(*back), reading.received);
            }
        }
    }
    // A timer that was due up to the end is due by the clock after two graces at most.
    episodes.step(tables, Input::Tick, moved(end, 2 * GRACE_MICROS), &mut out);
    out.alerts
}

proptest! {
    #[test]
    fn any_day_has_the_alerts_of_its_backtest(rows in any_rows(), day in any_day()) {
        let last = day.last().map_or(second(0), |(reading, _)| reading.at);
        // No timer is as long as this.
        let end = moved(last, i64::from(STEP) * 100 * 1_000_000);
        let [tested, others @ ..] = &rows;
        let mut backtest = Backtest::new(tested, others, second(0));
        for (reading, _) in &day {
            backtest.read(&Sample {
                sensor_id: reading.sensor,
                device_type: "T",
                zone_id: "z",
                event_id: reading.event_id,
                value: reading.value,
                reading_at: reading.at,
            });
        }
        backtest.reach(end);
        backtest.in_force.pass_to(end);
        backtest.if_saved.pass_to(end);
        let (saved, in_force) = (live(&rows, &day, end), live(others, &day, end));
        prop_assert_eq!(told(&backtest.if_saved.alerts), told(&saved));
        prop_assert_eq!(told(&backtest.in_force.alerts), told(&in_force));

        let report = backtest.finish(false);
        let opened = |alerts: &[Alert]| {
            u64::try_from(alerts.iter().filter(|alert| alert.episode == Some(EpisodeStep::Opened)).count()).unwrap()
        };
        prop_assert_eq!((report.if_saved.episodes, report.in_force.episodes), (opened(&saved), opened(&in_force)));
        let own: Vec<_> = saved.iter().filter(|alert| alert.threshold_id == tested.threshold_id).cloned().collect();
        prop_assert_eq!(report.tested.episodes, opened(&own));
        prop_assert_eq!(report.tested.alerts, u64::try_from(own.len()).unwrap());
        let difference = report.difference;
        prop_assert_eq!(difference.gone + difference.kept, report.in_force.episodes);
        prop_assert!(difference.added <= report.if_saved.episodes);
    }
}

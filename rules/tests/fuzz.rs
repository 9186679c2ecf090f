//! Rules and inputs that nobody would think of: no panic, records that can be read again, and memory that
//! does not grow with time.
//!
//! Mutational, as the gateway's fuzz is. `FUZZ_ROUND` is one round, again; with `FUZZ_SECONDS` there are as
//! many as there is time for, from `FUZZ_FROM` on.

use rules::{DedupWindow, Devices, Episodes, Input, Outputs, Rules, Tables};
use schema::{Episode, EpisodeKey, ReadingView, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Rounds of a test run; some seconds.
const ROUNDS: u64 = 150;
const TURNS: usize = 600;
/// Alerts, and closed episodes, that a partition remembers.
const REMEMBERED: usize = 16;
const SENSORS: [&str; 4] = ["a", "b", "c.1", "d"];
const PLACES: [&str; 2] = ["x", "y"];
const METRICS: [&str; 2] = ["m", "n"];
const THRESHOLDS: usize = 6;
/// Offsets from one reading to the next: a sensor that speaks is written after a few of them.
const OFFSETS: i64 = 20_000;
/// Bytes of everything that is held, written out, of 24 pairs of sensor and threshold, 16 closed episodes and
/// 16 alerts: four times what there is, and less than 100 for each turn.
const HELD_BYTES_MAX: usize = 40_000;
/// The first, the last and some other microseconds.
const INSTANTS: [i64; 5] =
    [-62_135_596_800_000_000, 253_402_300_799_999_999, 0, 1_770_000_000_000_000, 1_770_000_000_000_001];
const NUMBERS: [f64; 12] =
    [0.0, -0.0, 1.0, 1.5, 29.0, 30.0, 31.0, -31.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::EPSILON];
const SECONDS: [u32; 7] = [0, 1, 2, 60, 86_400, 31_536_000, u32::MAX];

/// A generator of numbers that is the same everywhere (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn perhaps<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!self.once_in(3)).then(|| self.pick(from))
    }

    /// An instant near `clock`, or anywhere.
    fn instant(&mut self, clock: i64) -> Timestamp {
        let micros = match self.below(20) {
            0 => self.pick(&INSTANTS),
            1 => clock.saturating_sub(i64::try_from(self.below(90_000)).unwrap() * 1_000_000),
            _ => clock.saturating_sub(i64::try_from(self.below(5)).unwrap() * 500_000),
        };
        Timestamp::from_micros(micros.clamp(INSTANTS[0], INSTANTS[1])).unwrap()
    }

    /// Changes bytes in a few places.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at < bytes.len() => bytes[at] = b"0-9e\"{[,:"[self.below(9)],
                _ => drop(bytes.splice(at..at, *b"99")),
            }
        }
    }
}

/// A partition and its tables, with what is committed of its topics.
struct Partition {
    dice: Dice,
    clock: i64,
    offset: i64,
    version: i64,
    rules: Rules,
    devices: Devices,
    episodes: Episodes,
    out: Outputs,
    records: BTreeMap<EpisodeKey, Episode>,
}

fn none_held() -> Episodes {
    Episodes::new(DedupWindow::new(REMEMBERED), REMEMBERED)
}

impl Partition {
    fn new(round: u64) -> Self {
        Self {
            dice: Dice(round),
            clock: INSTANTS[3],
            offset: 0,
            version: 0,
            rules: Rules::default(),
            devices: Devices::default(),
            episodes: none_held(),
            out: Outputs::default(),
            records: BTreeMap::new(),
        }
    }

    /// The version of the next change: of one in ten an earlier one, which may be stale.
    fn version(&mut self) -> i64 {
        self.version += 1;
        if self.dice.once_in(10) {
            i64::try_from(self.dice.below(1_000)).unwrap()
        } else {
            1_000 + self.version
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let now = self.dice.instant(self.clock);
        let tables = Tables { rules: &self.rules, devices: &self.devices };
        self.episodes.step(tables, input, now, &mut self.out);
    }

    fn turn(&mut self) {
        self.clock += i64::try_from(self.dice.below(4)).unwrap() * 700_000;
        match self.dice.below(40) {
            0..=2 => self.change_rule(),
            3 => self.change_device(),
            4..=7 => self.step(Input::Tick),
            8..=12 => self.commit(),
            13 => self.episodes.abort(),
            14 => self.restart(),
            _ => self.read(),
        }
    }

    fn read(&mut self) {
        self.offset += OFFSETS;
        let (at, received_at) = (self.dice.instant(self.clock), self.dice.instant(self.clock));
        let count = self.dice.below(METRICS.len() + 1);
        let units = json!({"units": {"m": "°".repeat(self.dice.below(20))}});
        let reading = ReadingView {
            event_id: Uuid::from_u128(u128::from(self.dice.next() % 100)),
            sensor_id: self.dice.pick(&SENSORS).into(),
            device_type: self.dice.pick(&PLACES).into(),
            zone_id: self.dice.pick(&PLACES).into(),
            values: METRICS[..count].iter().map(|one| ((*one).into(), self.dice.pick(&NUMBERS))).collect(),
            attributes: serde_json::from_value(units).unwrap(),
            reading_at: at,
            received_at,
        };
        self.step(Input::Reading(&reading, self.offset));
    }

    fn change_rule(&mut self) {
        let version = self.version();
        let dice = &mut self.dice;
        let id = Uuid::from_u128(u128::try_from(dice.below(THRESHOLDS)).unwrap());
        let key = json!({ "threshold_id": id }).to_string();
        let silence = dice.once_in(3);
        let row = json!({
            "threshold_id": id, "sensor_id": null, "metric": dice.pick(&METRICS), "description": "x",
            "zone_id": dice.perhaps(&PLACES), "device_type": dice.perhaps(&PLACES),
            "min_value": dice.perhaps(&NUMBERS).filter(|_| !silence),
            "max_value": dice.perhaps(&NUMBERS).filter(|_| !silence),
            "no_data_seconds": silence.then(|| dice.pick(&SECONDS)), "hysteresis": dice.pick(&NUMBERS),
            "for_seconds": dice.pick(&SECONDS), "keep_firing_seconds": dice.pick(&SECONDS),
            "repeat": dice.pick(&["every", "never", "1", "60"]), "severity": dice.pick(&["info", "critical"]),
            "alert_age_seconds_max": dice.perhaps(&SECONDS), "mode": dice.pick(&["live", "live", "shadow", "off"]),
            "version": version, "created_at": "2026-01-02T03:04:05Z",
            "updated_at": dice.instant(self.clock), "updated_by": "",
        });
        let value = match self.dice.below(6) {
            0 => None,
            1 => Some(json!({"op": "d", "before": row, "after": null, "ts_ms": 0})),
            _ => Some(json!({"op": "u", "before": null, "after": self.scoped(row), "ts_ms": 0})),
        };
        let mut bytes = value.map(|value| value.to_string().into_bytes());
        if let Some(bytes) = bytes.as_mut().filter(|_| self.dice.once_in(4)) {
            self.dice.mutate(bytes);
        }
        if let Ok(Some(touched)) = self.rules.apply(key.as_bytes(), bytes.as_deref()) {
            self.step(Input::RuleChanged(&touched));
        }
    }

    /// Gives a row a sensor in place of a zone or type, or where it has neither.
    fn scoped(&mut self, mut row: Value) -> Value {
        if row["zone_id"].is_null() && row["device_type"].is_null() || self.dice.once_in(4) {
            (row["zone_id"], row["device_type"]) = (Value::Null, Value::Null);
            row["sensor_id"] = self.dice.pick(&SENSORS).into();
        }
        row
    }

    fn change_device(&mut self) {
        let version = self.version();
        let sensor_id = self.dice.pick(&SENSORS);
        let row = json!({
            "sensor_id": sensor_id, "display_name": self.dice.pick(&["", "Hall", "\u{1b}[2J"]), "device_type": "x",
            "zone_id": "x", "codec": "json", "status": self.dice.pick(&["active", "active", "active", "suspended", "retired"]),
            "fingerprints": [], "version": version, "created_at": "2026-01-02T03:04:05Z",
            "updated_at": self.dice.instant(self.clock),
        });
        let change = json!({"op": "u", "before": null, "after": row, "ts_ms": 0}).to_string();
        let key = json!({ "sensor_id": sensor_id }).to_string();
        let value = (!self.dice.once_in(6)).then_some(change.as_bytes());
        if let Ok(Some(changed)) = self.devices.apply(key.as_bytes(), value) {
            self.step(Input::DeviceChanged(&changed));
        }
    }

    /// Writes what a transaction writes: every alert and every record can be read again.
    fn commit(&mut self) {
        for alert in self.out.alerts.drain(..) {
            let text = serde_json::to_string(&alert).unwrap();
            assert!(serde_json::from_str::<schema::Alert>(&text).is_ok(), "{text}");
        }
        let now = self.dice.instant(self.clock);
        for (key, record) in self.episodes.changes(now) {
            match record {
                None => drop(self.records.remove(&key)),
                Some(record) => {
                    let text = serde_json::to_string(&record).unwrap();
                    self.records.insert(key, serde_json::from_str(&text).expect(&text));
                }
            }
        }
        self.episodes.commit();
    }

    /// Begins again from the records, of which some are not as they were written.
    fn restart(&mut self) {
        self.episodes = none_held();
        self.out.alerts.clear();
        for (key, record) in &self.records {
            let mut bytes = serde_json::to_vec(record).unwrap();
            if self.dice.once_in(8) {
                self.dice.mutate(&mut bytes);
            }
            self.episodes.restore(key, serde_json::from_slice(&bytes).ok());
        }
        self.step(Input::Restored);
    }

    fn assert_bounded(&mut self) {
        self.commit();
        let pairs = SENSORS.len() * THRESHOLDS;
        assert!(self.episodes.open_count() <= pairs, "{} open episodes", self.episodes.open_count());
        let held = format!("{:?}", self.episodes);
        assert!(held.len() <= HELD_BYTES_MAX, "{} bytes: {held}", held.len());
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::vars().find_map(|(key, value)| (key == name).then(|| value.parse().unwrap()))
}

#[test]
fn any_rules_and_inputs_are_taken_without_a_panic_and_in_bounded_memory() {
    let until = number_from_env("FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let from = number_from_env("FUZZ_FROM").unwrap_or(0);
    let rounds = match (number_from_env("FUZZ_ROUND"), until) {
        (Some(one), _) => one..one + 1,
        (None, Some(_)) => from..u64::MAX,
        (None, None) => 0..ROUNDS,
    };
    let (mut alerts, mut done) = (0, 0_u64);
    for round in rounds {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let failing = Failing(round);
        let mut partition = Partition::new(round);
        for _ in 0..TURNS {
            partition.turn();
            alerts += partition.out.alerts.len();
        }
        partition.assert_bounded();
        drop(failing);
        done += 1;
    }
    println!("fuzz rules: {done} rounds of {TURNS} turns");
    assert!(done < ROUNDS || alerts > 5_000, "{alerts} alerts: the inputs say nothing");
}

/// Says which round failed, when one does.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fuzz rules: FUZZ_ROUND={}", self.0);
        }
    }
}

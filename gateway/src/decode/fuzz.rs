//! Every decoder under mutated payloads: none panics, and what it lets through keeps every promise of a reading.

use std::path::PathBuf;

use schema::Codec;

use super::tests::{BOUNDS, message};
use super::*;

/// Rounds for each codec unless `FUZZ_ROUNDS` says otherwise: two seconds in all.
const ROUNDS: u64 = 5_000;
/// Bytes of the largest mutated payload.
const PAYLOAD_BYTES_MAX: usize = 16_384;

/// One file of the corpus.
#[derive(Clone)]
struct Seed {
    /// `ok` or the reason of the refusal.
    outcome: String,
    subtopic: String,
    payload: Vec<u8>,
}

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn layout() -> String {
    std::fs::read_to_string(corpus().join("binary/layout.json")).unwrap()
}

/// The corpus of a codec, in the order of its names.
fn seeds(codec: Codec) -> Vec<Seed> {
    let mut paths: Vec<_> = std::fs::read_dir(corpus().join(codec.as_str()))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("layout.json"))
        .collect();
    paths.sort();
    let seed = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (outcome, what) = name.split_once('.').unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let payload = match what.strip_suffix(".hex") {
            Some(_) => hex::decode(text.split_whitespace().collect::<String>()).unwrap(),
            None => text.into_bytes(),
        };
        let kind = what.split(['-', '.']).next().unwrap();
        let subtopic = if kind.starts_with('D') { format!("{kind}/pump 1") } else { kind.to_owned() };
        Seed { outcome: outcome.to_owned(), subtopic, payload }
    };
    paths.iter().map(seed).collect()
}

/// A generator of numbers that is the same everywhere (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// What parsers trip over: lengths near the edges of their types, brackets, breaks, signs of the formats.
const TOKENS: [&[u8]; 22] = [
    &[0x00],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0x9f],
    &[0xbf],
    &[0x5f],
    &[0xc4, 0x82],
    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x7b, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff],
    &[0xf9, 0x7e, 0x00],
    &[0xfb, 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x12, 0x80, 0x80, 0x80, 0x80, 0x08],
    b"[",
    b"{\"a\":",
    b"1e308",
    b"-9223372036854775809",
    b"\"timestamp\":",
    b"\"t_\":",
    b"\\ud800",
];

/// Changes a payload in one place, or in up to eight.
fn mutate(dice: &mut Dice, seeds: &[Seed], payload: &mut Vec<u8>) {
    for _ in 0..1 << dice.below(4) {
        let at = dice.below(payload.len() + 1);
        let end = at + dice.below((payload.len() - at).min(64) + 1);
        match dice.below(12) {
            0..=3 if at < payload.len() => payload[at] ^= 1 << dice.below(8),
            4..=6 if at < payload.len() => payload[at] = dice.byte(),
            7 => payload.truncate(at),
            8 => drop(payload.drain(at..end)),
            9 => {
                let copied = payload[at..end].repeat(1 + dice.below(20));
                payload.splice(at..at, copied);
            }
            10 => {
                let other = &dice.pick(seeds).payload;
                let from = dice.below(other.len());
                payload.splice(at..end, other[from..].iter().copied());
            }
            _ => drop(payload.splice(at..end, dice.pick(&TOKENS).iter().copied())),
        }
    }
    payload.truncate(PAYLOAD_BYTES_MAX);
}

/// Holds readings against what the rest of the platform relies on.
fn check(codec: Codec, message: &Message<'_>, readings: &[ReadingCreatedEvent]) {
    assert!(!readings.is_empty() || (codec == Codec::SparkplugB && !message.subtopic.contains("DATA")));
    assert!(readings.len() <= READINGS_MAX);
    for (n, reading) in readings.iter().enumerate() {
        assert!((1..=METRICS_MAX).contains(&reading.values.len()));
        for (name, value) in &reading.values {
            assert!(schema::check_metric(name).is_ok() && value.is_finite());
            assert!(!reading.attributes.contains_key(name));
        }
        assert!(reading.attributes.len() <= ATTRIBUTES_MAX);
        assert!(reading.attributes.keys().all(|name| name.len() <= ATTRIBUTE_BYTES_MAX));
        assert!(BOUNDS.check(reading.reading_at, message.received_at).is_ok());
        assert!(readings[..n].iter().all(|earlier| earlier.reading_at < reading.reading_at));
        assert!(readings[..n].iter().all(|earlier| earlier.event_id != reading.event_id));
        let json = serde_json::to_string(reading).unwrap();
        assert_eq!(&serde_json::from_str::<ReadingCreatedEvent>(&json).unwrap(), reading);
    }
}

/// Says which round failed, when one does.
struct Round<'a>(Codec, u64, &'a [u8]);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} FUZZ_ROUND={} {}", self.0.as_str(), self.1, hex::encode(self.2));
        }
    }
}

/// One decoder, and what it is fed with.
struct Target {
    codec: Codec,
    seeds: Vec<Seed>,
    layout: Seed,
    /// Those of the rounds before.
    births: Births,
}

impl Target {
    fn new(codec: Codec) -> Self {
        let layout =
            Seed { outcome: "ok".to_owned(), subtopic: String::new(), payload: layout().into_bytes() };
        Self { codec, seeds: seeds(codec), layout, births: Births::default() }
    }

    /// Decodes what round `number` makes of the corpus; tells whether it could be decoded.
    fn round(&mut self, number: u64) -> bool {
        let mut dice = Dice(number);
        let mut seed = dice.pick(&self.seeds);
        // What is refused already is mostly refused again: three of four rounds begin with what is not.
        while seed.outcome != "ok" && !number.is_multiple_of(4) {
            seed = dice.pick(&self.seeds);
        }
        let mut payload = seed.payload.clone();
        mutate(&mut dice, &self.seeds, &mut payload);
        let mut layout = self.layout.payload.clone();
        if self.codec == Codec::Binary && dice.below(2) == 0 {
            mutate(&mut dice, std::slice::from_ref(&self.layout), &mut layout);
        }
        let format = Format::of(self.codec.as_str(), Some(&String::from_utf8_lossy(&layout)));
        let event_id = (dice.below(2) == 0).then_some("e-7");
        let other = dice.pick(&self.seeds);
        let subtopic = if dice.below(4) == 0 { &other.subtopic } else { &seed.subtopic };
        let message = Message { subtopic, event_id, ..message(&payload) };
        let _round = Round(self.codec, number, &payload);
        if dice.below(16) == 0 {
            self.births = Births::default();
        }
        let mut same_births = self.births.clone();
        let decoded = decode(&format, &message, &mut self.births, &BOUNDS);
        assert_eq!(decoded, decode(&format, &message, &mut same_births, &BOUNDS), "not pure");
        assert!(self.births.len() <= BORN_MAX && self.births == same_births);
        match &decoded {
            Ok(readings) => check(self.codec, &message, readings),
            Err(undecodable) => assert!(!undecodable.reason().is_empty()),
        }
        decoded.is_ok()
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var_os(name).map(|text| text.to_str().unwrap().parse().unwrap())
}

#[test]
fn every_file_of_the_corpus_has_its_outcome() {
    for codec in Codec::ALL {
        let format = Format::of(codec.as_str(), Some(&layout()));
        for seed in seeds(codec) {
            let message = Message { subtopic: &seed.subtopic, ..message(&seed.payload) };
            let decoded = decode(&format, &message, &mut Births::default(), &BOUNDS);
            let outcome = decoded.as_ref().map_or_else(Undecodable::reason, |_| "ok");
            assert_eq!(outcome, seed.outcome, "{} {:x?}: {decoded:?}", codec.as_str(), seed.payload);
        }
    }
}

#[test]
fn no_mutated_payload_panics_or_breaks_a_promise() {
    let first = number_from_env("FUZZ_ROUND");
    let rounds = first.map_or(number_from_env("FUZZ_ROUNDS").unwrap_or(ROUNDS), |_| 1);
    for codec in Codec::ALL {
        let mut target = Target::new(codec);
        let first = first.unwrap_or(0);
        let decoded = (first..first + rounds).filter(|number| target.round(*number)).count();
        // A mutator that breaks everything would test nothing but the first byte.
        assert!(rounds < ROUNDS || decoded > 50, "{}: {decoded} decoded", codec.as_str());
        println!("{}: {rounds} rounds, {decoded} decoded", codec.as_str());
    }
}

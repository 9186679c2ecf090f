//! Every decoder under mutated payloads: none panics, and what it lets through keeps every promise of a
//! reading.

use super::tests::{BOUNDS, message};
use super::*;
use crate::fuzz::{Dice, Round, Rounds, Seed, corpus, mutate, seeds};
use schema::Codec;

/// Rounds for each codec unless `FUZZ_ROUNDS` says otherwise: two seconds in all.
const ROUNDS: u64 = 5_000;

/// One file of the corpus, with the Sparkplug kind that its name begins with.
#[derive(Clone)]
struct Payload {
    seed: Seed,
    subtopic: String,
}

fn layout() -> String {
    std::fs::read_to_string(corpus().join("binary/layout.json")).unwrap()
}

/// Returns the corpus of a codec.
fn payloads(codec: Codec) -> Vec<Payload> {
    let payload = |seed: Seed| {
        let kind = seed.what.split(['-', '.']).next().unwrap();
        let subtopic = if kind.starts_with('D') { format!("{kind}/pump 1") } else { kind.to_owned() };
        Payload { seed, subtopic }
    };
    seeds(codec.as_str()).into_iter().map(payload).collect()
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

/// Holds readings against what the rest of the platform relies on.
fn check(codec: Codec, message: &Message<'_>, readings: &[ReadingCreatedEvent]) {
    assert!(!readings.is_empty() || codec == Codec::SparkplugB, "only there a message may measure nothing");
    assert!(readings.len() <= READINGS_MAX);
    for (n, reading) in readings.iter().enumerate() {
        assert!((1..=METRICS_MAX).contains(&reading.values.len()));
        for (name, value) in &reading.values {
            assert!(schema::check_metric(name).is_ok() && schema::check_value(name, *value).is_ok());
            assert!(!reading.attributes.contains_key(name));
        }
        assert!(reading.attributes.len() <= ATTRIBUTES_MAX);
        assert!(schema::check_attributes(&reading.attributes).is_ok());
        assert!(reading.attributes.keys().all(|name| name.len() <= ATTRIBUTE_NAME_BYTES_MAX));
        assert!(BOUNDS.check(reading.reading_at, message.received_at).is_ok());
        assert!(readings[..n].iter().all(|earlier| earlier.reading_at < reading.reading_at));
        assert!(readings[..n].iter().all(|earlier| earlier.event_id != reading.event_id));
        let json = serde_json::to_string(reading).unwrap();
        assert_eq!(&serde_json::from_str::<ReadingCreatedEvent>(&json).unwrap(), reading);
    }
}

/// One decoder, and what it is fed with.
struct Target {
    codec: Codec,
    payloads: Vec<Payload>,
    seeds: Vec<Seed>,
    layout: Seed,
}

impl Target {
    fn new(codec: Codec) -> Self {
        let layout = Seed { outcome: "ok".to_owned(), what: String::new(), bytes: layout().into_bytes() };
        let payloads = payloads(codec);
        let seeds = payloads.iter().map(|payload| payload.seed.clone()).collect();
        Self { codec, payloads, seeds, layout }
    }

    /// Returns what an earlier message of the connection has declared, as far as it was none to refuse.
    fn births(&self, dice: &mut Dice) -> Births {
        let mut births = Births::default();
        let declaring: Vec<_> =
            self.payloads.iter().filter(|payload| payload.subtopic.contains("BIRTH")).collect();
        if self.codec == Codec::SparkplugB && !dice.once_in(4) {
            let birth = *dice.pick(&declaring);
            let mut bytes = birth.seed.bytes.clone();
            if dice.once_in(4) {
                mutate(dice, &self.seeds, &TOKENS, &mut bytes);
            }
            let message = Message { subtopic: &birth.subtopic, ..message(&bytes) };
            // The next message finds its declarations, mutated or not.
            let _ = decode(&Format::SparkplugB, &message, &mut births, &BOUNDS);
        }
        births
    }

    /// Decodes what round `number` makes of the corpus; tells whether it could be decoded.
    fn round(&self, number: u64) -> bool {
        let mut dice = Dice(number);
        let mut chosen = dice.pick(&self.payloads);
        // A refused payload is mostly refused again, so three of four rounds begin with one that is not.
        while chosen.seed.outcome != "ok" && !number.is_multiple_of(4) {
            chosen = dice.pick(&self.payloads);
        }
        let mut payload = chosen.seed.bytes.clone();
        mutate(&mut dice, &self.seeds, &TOKENS, &mut payload);
        let mut layout = self.layout.bytes.clone();
        if self.codec == Codec::Binary && dice.once_in(2) {
            mutate(&mut dice, std::slice::from_ref(&self.layout), &TOKENS, &mut layout);
        }
        let format = Format::of(self.codec.as_str(), Some(&String::from_utf8_lossy(&layout)));
        let event_id = dice.once_in(2).then_some("e-7");
        let other = dice.pick(&self.payloads);
        let subtopic = if dice.once_in(4) { &other.subtopic } else { &chosen.subtopic };
        let mut births = self.births(&mut dice);
        let message = Message { subtopic, event_id, ..message(&payload) };
        let _round = Round(self.codec.as_str(), number, &payload);
        let mut same_births = births.clone();
        let decoded = decode(&format, &message, &mut births, &BOUNDS);
        assert_eq!(decoded, decode(&format, &message, &mut same_births, &BOUNDS), "not pure");
        assert!(births.len() <= BORN_MAX && births == same_births);
        match &decoded {
            Ok(readings) => check(self.codec, &message, readings),
            Err(undecodable) => assert!(!undecodable.reason().is_empty()),
        }
        decoded.is_ok()
    }
}

#[test]
fn every_file_of_the_corpus_has_its_outcome() {
    for codec in Codec::ALL {
        let format = Format::of(codec.as_str(), Some(&layout()));
        for Payload { seed, subtopic } in payloads(codec) {
            let message = Message { subtopic: &subtopic, ..message(&seed.bytes) };
            let decoded = decode(&format, &message, &mut Births::default(), &BOUNDS);
            let outcome = decoded.as_ref().map_or_else(Undecodable::reason, |_| "ok");
            assert_eq!(outcome, seed.outcome, "{} {:x?}: {decoded:?}", codec.as_str(), seed.bytes);
        }
    }
}

#[test]
fn no_mutated_payload_panics_or_breaks_a_promise() {
    for codec in Codec::ALL {
        let target = Target::new(codec);
        let mut rounds = Rounds::of(codec.as_str(), ROUNDS);
        while let Some(number) = rounds.next() {
            if target.round(number) {
                rounds.accept();
            }
        }
        assert!(!rounds.is_sample() || rounds.accepted_percent() > 1.0, "{}", codec.as_str());
    }
}

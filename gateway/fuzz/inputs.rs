//! What the fuzz targets share: dice that fall the same everywhere, changes of bytes, the corpus, and the
//! count of rounds.
//!
//! Mutational, from a corpus, with generators that know the formats. Guided by coverage it is not: the
//! compiler's instrumentation for that is in nightly builds alone, and this repository has one pinned stable
//! toolchain.

// Compiled into the unit tests and into the integration tests; not everything here is used in both.
#![allow(dead_code, reason = "each of the two test binaries uses its part")]

pub(crate) mod packets;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a long run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of the largest mutated input.
const BYTES_MAX: usize = 16_384;

/// One file of the corpus: `<outcome>.<what>.hex` is bytes in hexadecimal, any other end is text as it is.
#[derive(Clone)]
pub(crate) struct Seed {
    /// `ok` or the reason of the refusal.
    pub(crate) outcome: String,
    /// The rest of the file's name.
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a folder of the corpus, in the order of their names.
pub(crate) fn seeds(folder: &str) -> Vec<Seed> {
    let mut paths: Vec<_> = std::fs::read_dir(corpus().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("layout.json"))
        .collect();
    paths.sort();
    let seed = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (outcome, what) = name.split_once('.').unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let bytes = match what.strip_suffix(".hex") {
            Some(_) => hex::decode(text.split_whitespace().collect::<String>()).unwrap(),
            None => text.into_bytes(),
        };
        Seed { outcome: outcome.to_owned(), what: what.to_owned(), bytes }
    };
    paths.iter().map(seed).collect()
}

/// A generator of numbers that is the same everywhere (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, count_max: usize) -> Vec<u8> {
        (0..self.below(count_max + 1)).map(|_| self.byte()).collect()
    }

    /// Cuts bytes into chunks, as a network may.
    pub(crate) fn split<'a>(&mut self, bytes: &'a [u8], cuts_max: usize) -> Vec<&'a [u8]> {
        let mut at: Vec<_> = (0..self.below(cuts_max + 1)).map(|_| self.below(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
    }
}

/// Changes bytes in one place, or in up to eight; `tokens` is what a parser of the format trips over.
pub(crate) fn mutate(dice: &mut Dice, seeds: &[Seed], tokens: &[&[u8]], bytes: &mut Vec<u8>) {
    for _ in 0..1 << dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(64) + 1);
        match dice.below(12) {
            0..=3 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            4..=6 if at < bytes.len() => bytes[at] = dice.byte(),
            7 => bytes.truncate(at),
            8 => drop(bytes.drain(at..end)),
            9 => {
                let copied = bytes[at..end].repeat(1 + dice.below(20));
                bytes.splice(at..at, copied);
            }
            10 => {
                let other = &dice.pick(seeds).bytes;
                let from = dice.below(other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
            _ => drop(bytes.splice(at..end, dice.pick(tokens).iter().copied())),
        }
    }
    bytes.truncate(BYTES_MAX);
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var_os(name).map(|text| text.to_str().unwrap().parse().unwrap())
}

/// The numbers of the rounds of one target: `rounds` of them, or `FUZZ_ROUNDS`.
///
/// `FUZZ_ROUND` is one round, again. `FUZZ_SECONDS` is as many as there is time for, from `FUZZ_FROM` on, and
/// says now and then how far it is.
pub(crate) struct Rounds {
    target: String,
    next: u64,
    left: u64,
    until: Option<Instant>,
    started: Instant,
    told: Instant,
    executions: u64,
    accepted: u64,
}

impl Rounds {
    pub(crate) fn of(target: &str, rounds: u64) -> Self {
        let now = Instant::now();
        let (one, seconds) = (number_from_env("FUZZ_ROUND"), number_from_env("FUZZ_SECONDS"));
        let (next, left, until) = match (one, seconds) {
            (Some(one), _) => (one, 1, None),
            (None, Some(seconds)) => {
                let from = number_from_env("FUZZ_FROM").unwrap_or(0);
                (from, u64::MAX, Some(now + Duration::from_secs(seconds)))
            }
            (None, None) => (0, number_from_env("FUZZ_ROUNDS").unwrap_or(rounds), None),
        };
        let target = target.to_owned();
        Self { target, next, left, until, started: now, told: now, executions: 0, accepted: 0 }
    }

    /// The next round's number, while there is one.
    pub(crate) fn next(&mut self) -> Option<u64> {
        if self.left == 0 || self.until.is_some_and(|until| Instant::now() >= until) {
            self.tell();
            return None;
        }
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.tell();
        }
        self.left -= 1;
        self.executions += 1;
        self.next = self.next.wrapping_add(1);
        Some(self.next.wrapping_sub(1))
    }

    /// Counts a round whose input was taken for good.
    pub(crate) fn accept(&mut self) {
        self.accepted += 1;
    }

    fn tell(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let accepted = match self.accepted {
            0 => String::new(),
            _ => format!(", {:.1} % accepted", self.accepted_percent()),
        };
        let Self { target, executions, next, .. } = self;
        let rate = *executions as f64 / seconds;
        println!(
            "fuzz {target}: {executions} executions in {seconds:.1} s ({rate:.0}/s){accepted}, next round {next}"
        );
    }

    /// How many of the rounds had an input that was taken for good. A mutator that breaks everything would
    /// test nothing but the first byte.
    pub(crate) fn accepted_percent(&self) -> f64 {
        100.0 * self.accepted as f64 / self.executions.max(1) as f64
    }

    /// Whether there were enough rounds to speak of a share.
    pub(crate) fn is_sample(&self) -> bool {
        self.executions >= 1_000
    }
}

/// Says which round failed, when one does.
pub(crate) struct Round<'a>(pub(crate) &'a str, pub(crate) u64, pub(crate) &'a [u8]);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("fuzz {}: FUZZ_ROUND={} {}", self.0, self.1, hex::encode(self.2));
        }
    }
}

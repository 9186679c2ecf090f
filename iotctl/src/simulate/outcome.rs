//! What a simulation did, against what it was to do.

use super::schedule::Kept;
use serde_json::{Value, json};
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Counts what the devices of a simulation were to publish and what became of it: `due` is `published` and
/// `skipped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Readings that the rate and the time asked for, or rows of the file.
    pub due: u64,
    /// Messages sent.
    pub published: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Readings that were published late.
    pub late: u64,
    /// The latest of them was so late.
    pub late_max: Duration,
}

impl Outcome {
    /// Describes one device by its schedule and by the messages that it published, all of them acknowledged.
    pub(super) fn of_device(kept: Kept, published: u64) -> Self {
        let Kept { due, late, late_max } = kept;
        Self { due, published, acked: published, late, late_max }
    }

    /// Counts what was due and not published: the device was busy or away; of a file, a row without a value.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.due.saturating_sub(self.published)
    }

    /// Describes it for programs.
    #[must_use]
    pub fn json(&self, elapsed: Duration) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "due": self.due, "published": self.published, "acked": self.acked, "skipped": self.skipped(),
            "late": self.late, "late_ms_max": ms(self.late_max), "elapsed_ms": ms(elapsed),
        })
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.due += other.due;
        self.published += other.published;
        self.acked += other.acked;
        self.late += other.late;
        self.late_max = self.late_max.max(other.late_max);
    }
}

/// One line for people.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { due, published, acked, late, .. } = self;
        write!(f, "published {published} of {due}, acked {acked}, skipped {}", self.skipped())?;
        if *late > 0 {
            write!(f, ", late {late} (by up to {:.1} s)", self.late_max.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_is_published_or_skipped_and_said_in_both_forms() {
        let kept = Kept { due: 10, late: 2, late_max: Duration::from_millis(1_500) };
        let mut outcome = Outcome::of_device(kept, 7);
        outcome += Outcome { due: 1, published: 1, acked: 1, ..Outcome::default() };
        assert_eq!(outcome.to_string(), "published 8 of 11, acked 8, skipped 3, late 2 (by up to 1.5 s)");
        let json = outcome.json(Duration::from_secs(2));
        assert_eq!(
            json,
            json!({
                "due": 11, "published": 8, "acked": 8, "skipped": 3,
                "late": 2, "late_ms_max": 1_500, "elapsed_ms": 2_000,
            })
        );
    }
}

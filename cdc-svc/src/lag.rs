//! How far a slot is behind, and when a lack of progress is a stall. Pure: no clock, no I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest time between two looks that counts as seen: a process that was frozen for an hour has not watched
/// for an hour.
const GAP_MAX: Duration = Duration::from_secs(15);
/// Most positions of the WAL that are remembered. When it is full, what comes is left out: the age is that of
/// the oldest.
const MARKS_MAX: usize = 1_024;

/// Says what one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// End of the WAL, in bytes from its beginning.
    pub(crate) wal: u64,
    /// Position that the slot has confirmed; none when there is no slot, so that a snapshot is due.
    pub(crate) confirmed: Option<u64>,
    /// A number that grows with every step of work that moves no slot, such as a part of a large transaction.
    pub(crate) steps: u64,
    /// Whether nothing stands in the way: both servers answer.
    pub(crate) is_free: bool,
}

/// Says what the looks so far mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Bytes of WAL that are not confirmed.
    pub(crate) bytes: u64,
    /// Age of the oldest WAL that is not confirmed.
    pub(crate) age: Duration,
    /// Time during which something was due, nothing moved, and nothing stood in the way.
    pub(crate) standing: Duration,
}

/// Remembers what was found.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    last: Option<(Instant, Look)>,
    /// Ends of the WAL that are not confirmed, the oldest first, and when each was seen first.
    marks: VecDeque<(Instant, u64)>,
    standing: Duration,
}

impl Lag {
    /// Takes one look.
    ///
    /// Guarantee: time with something in the way does not count, and does not wipe out the time before it
    /// either.
    pub(crate) fn look(&mut self, now: Instant, look: Look) -> Verdict {
        let confirmed = look.confirmed.unwrap_or(0);
        let bytes = if look.confirmed.is_some() { look.wal.saturating_sub(confirmed) } else { 0 };
        while self.marks.front().is_some_and(|(_, wal)| *wal <= confirmed) {
            self.marks.pop_front();
        }
        let is_new = self.marks.back().is_none_or(|(_, wal)| *wal < look.wal);
        if bytes > 0 && is_new && self.marks.len() < MARKS_MAX {
            self.marks.push_back((now, look.wal));
        }
        let is_due = bytes > 0 || look.confirmed.is_none();
        self.standing = match self.last {
            Some((then, last)) if is_due && (last.confirmed, last.steps) == (look.confirmed, look.steps) => {
                let since = now.saturating_duration_since(then).min(GAP_MAX);
                self.standing + if look.is_free { since } else { Duration::ZERO }
            }
            _ => Duration::ZERO,
        };
        self.last = Some((now, look));
        let oldest = self.marks.front().filter(|_| bytes > 0);
        let age = oldest.map_or(Duration::ZERO, |(seen, _)| now.saturating_duration_since(*seen));
        Verdict { bytes, age, standing: self.standing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn look(wal: u64, confirmed: u64) -> Look {
        Look { wal, confirmed: Some(confirmed), steps: 0, is_free: true }
    }

    #[test]
    fn a_slot_that_does_not_move_is_as_old_as_the_first_wal_behind_it() {
        let (mut lag, begin) = (Lag::default(), Instant::now());
        assert_eq!(lag.look(begin, look(100, 100)), Verdict::default());
        for second in 1..=20 {
            let verdict = lag.look(begin + SECOND * second, look(100 + u64::from(second), 100));
            let (bytes, age) = (u64::from(second), SECOND * (second - 1));
            assert_eq!(verdict, Verdict { bytes, age, standing: SECOND * second });
        }
        let moved = lag.look(begin + SECOND * 21, look(121, 110));
        assert_eq!(moved, Verdict { bytes: 11, age: SECOND * 10, standing: Duration::ZERO });
        assert_eq!(lag.look(begin + SECOND * 22, look(121, 121)), Verdict::default());
    }

    #[test]
    fn steps_and_obstacles_are_no_standstill_and_a_missing_slot_is_one() {
        let (mut lag, begin) = (Lag::default(), Instant::now());
        lag.look(begin, look(9, 1));
        assert_eq!(lag.look(begin + SECOND, look(9, 1)).standing, SECOND);
        let away = Look { is_free: false, ..look(9, 1) };
        assert_eq!(lag.look(begin + SECOND * 2, away).standing, SECOND);
        assert_eq!(lag.look(begin + SECOND * 3, Look { steps: 1, ..look(9, 1) }).standing, Duration::ZERO);
        let absent = Look { confirmed: None, steps: 1, ..look(9, 0) };
        lag.look(begin + SECOND * 4, absent);
        let verdict = lag.look(begin + SECOND * 5, absent);
        assert_eq!(verdict, Verdict { standing: SECOND, ..Verdict::default() });
        let frozen = lag.look(begin + SECOND * 3_600, absent);
        assert_eq!(frozen.standing, SECOND + GAP_MAX);
    }

    proptest! {
        #[test]
        fn the_age_is_that_of_the_oldest_end_that_is_not_confirmed(
            turns in prop::collection::vec((0_u64..5, 0_u64..5), 1..100),
        ) {
            let (mut lag, begin) = (Lag::default(), Instant::now());
            let (mut wal, mut confirmed) = (0, 0);
            let mut ends: Vec<(Duration, u64)> = Vec::new();
            for (turn, (written, done)) in (0_u32..).zip(turns) {
                (wal, confirmed) = (wal + written, (confirmed + done).min(wal + written));
                let since = SECOND * turn;
                ends.push((since, wal));
                let verdict = lag.look(begin + since, look(wal, confirmed));
                let oldest = ends.iter().find(|(_, end)| *end > confirmed);
                prop_assert_eq!(verdict.bytes, wal - confirmed);
                prop_assert_eq!(verdict.age, oldest.map_or(Duration::ZERO, |(seen, _)| since - *seen));
            }
        }
    }
}

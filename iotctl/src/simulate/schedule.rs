//! When a device is due to measure, and what it does about readings that it missed. Pure.
//!
//! A reading is published or skipped, so the two add up to what was due. A device that is a little behind
//! takes what it missed; one that is far behind measures again when it can, and does not make up readings it
//! never took.

use std::time::Duration;

/// Lateness up to which a missed reading is still taken: a pause of a busy machine, not a gateway that is too
/// slow.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// Lateness from which a reading counts as late: less is within what a timer on a busy machine does.
const LATE_FROM: Duration = Duration::from_millis(100);

/// The readings of one device at a steady rate. Times are counted from its start.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    /// None means that it goes on until somebody stops it.
    duration: Option<Duration>,
    /// The reading that is due next; readings are numbered from 0.
    next: u64,
    late: u64,
    late_max: Duration,
}

/// What became of the readings that were due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Readings that were due.
    pub(super) due: u64,
    /// Readings of these that were published late.
    pub(super) late: u64,
    /// The latest of them was so late.
    pub(super) late_max: Duration,
}

impl Schedule {
    /// Plans a reading at the start and one after each `every`, for `duration` or without an end.
    pub(super) fn new(every: Duration, duration: Option<Duration>) -> Self {
        Self { every, duration, next: 0, late: 0, late_max: Duration::ZERO }
    }

    /// Says when the next reading is due; none when all have been.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let at = self.due_at(self.next);
        self.duration.is_none_or(|duration| at < duration).then_some(at)
    }

    /// Says when it is too late for the last reading.
    pub(super) fn end(&self) -> Option<Duration> {
        self.duration.map(|duration| duration + CATCH_UP_MAX)
    }

    /// Begins the reading that is due at `now`, and skips those that were missed too long ago. Returns its
    /// number.
    pub(super) fn begin(&mut self, now: Duration) -> u64 {
        if now.saturating_sub(self.due_at(self.next)) > CATCH_UP_MAX {
            self.next = self.due_by(now).saturating_sub(1).max(self.next);
        }
        self.next
    }

    /// Notes that the reading which was begun is published.
    pub(super) fn published(&mut self, now: Duration) {
        let late = now.saturating_sub(self.due_at(self.next));
        if late >= LATE_FROM {
            self.late += 1;
            self.late_max = self.late_max.max(late);
        }
        self.next += 1;
    }

    /// Sums up at the end of the work.
    pub(super) fn kept(&self, now: Duration) -> Kept {
        // A reading that was published a moment early was due, too.
        let due = self.due_by(now).max(self.next);
        Kept { due, late: self.late, late_max: self.late_max }
    }

    /// Counts the readings that are due up to `now`.
    fn due_by(&self, now: Duration) -> u64 {
        let every = self.every.as_nanos().max(1);
        let begun = now.as_nanos() / every + 1;
        let planned = self.duration.map_or(u128::MAX, |duration| duration.as_nanos().div_ceil(every));
        u64::try_from(begun.min(planned)).unwrap_or(u64::MAX)
    }

    fn due_at(&self, nth: u64) -> Duration {
        let nanos = self.every.as_nanos().saturating_mul(nth.into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Publishes all that is due, each taking as long as `cost` says; returns the numbers published and the
    /// end.
    fn run(schedule: &mut Schedule, cost: impl Fn(u64) -> Duration) -> (Vec<u64>, Duration) {
        let (mut now, mut taken) = (Duration::ZERO, Vec::new());
        let end = schedule.end().unwrap();
        while let Some(due) = schedule.next_due() {
            now = now.max(due);
            let nth = schedule.begin(now);
            now += cost(nth);
            if now > end {
                return (taken, end);
            }
            schedule.published(now);
            taken.push(nth);
        }
        (taken, now)
    }

    #[test]
    fn rate_is_kept_when_publishing_is_quick() {
        let mut schedule = Schedule::new(40 * MS, Some(2_000 * MS));
        let (taken, now) = run(&mut schedule, |_| MS);
        assert_eq!(taken, (0..50).collect::<Vec<_>>());
        assert_eq!(schedule.kept(now), Kept { due: 50, late: 0, late_max: Duration::ZERO });
    }

    #[test]
    fn short_pause_is_caught_up_with_and_counted_as_late() {
        let mut schedule = Schedule::new(40 * MS, Some(2_000 * MS));
        let (taken, now) = run(&mut schedule, |nth| if nth == 10 { 500 * MS } else { MS });
        assert_eq!(taken, (0..50).collect::<Vec<_>>());
        let kept = schedule.kept(now);
        assert_eq!((kept.due, kept.late_max), (50, 500 * MS));
        assert!(kept.late > 5 && kept.late < 15, "{kept:?}");
    }

    #[test]
    fn long_pause_is_skipped_but_for_the_newest_reading_that_is_due() {
        let mut schedule = Schedule::new(100 * MS, Some(10_000 * MS));
        let (taken, now) = run(&mut schedule, |nth| if nth == 10 { 5_000 * MS } else { MS });
        assert_eq!(taken, (0..=10).chain(60..100).collect::<Vec<_>>());
        assert_eq!(schedule.kept(now).due, 100);
    }

    #[test]
    fn impossible_rate_publishes_what_it_can_and_owes_the_rest() {
        let mut schedule = Schedule::new(MS, Some(3_000 * MS));
        let (taken, now) = run(&mut schedule, |_| 100 * MS);
        assert!(taken.len() < 45, "{taken:?}");
        assert!(taken.is_sorted_by(|one, next| one < next), "{taken:?}");
        assert_eq!(schedule.kept(now).due, 3_000);
    }

    #[test]
    fn stop_in_the_middle_owes_only_what_was_due_until_then() {
        let mut schedule = Schedule::new(100 * MS, None);
        assert_eq!(schedule.begin(Duration::ZERO), 0);
        schedule.published(MS);
        assert_eq!(schedule.next_due(), Some(100 * MS));
        assert_eq!(schedule.kept(50 * MS).due, 1);
        assert_eq!(schedule.kept(100 * MS).due, 2);
    }

    #[test]
    fn slow_rate_that_is_late_measures_at_once_and_skips_nothing() {
        let mut schedule = Schedule::new(10_000 * MS, Some(20_000 * MS));
        assert_eq!(schedule.begin(3_000 * MS), 0);
        schedule.published(3_000 * MS);
        assert_eq!(schedule.next_due(), Some(10_000 * MS));
    }
}

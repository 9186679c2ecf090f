//! Lag of partitions, and when a lack of progress is a stall. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest time between two looks that counts as seen: a process that was frozen for an hour has not watched
/// for an hour.
const GAP_MAX: Duration = Duration::from_secs(10);
/// Stalls, in multiples of the longest that is ready, at which the process should be restarted.
const STALLS_MAX: u32 = 2;

/// Says what one look found of an assigned partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Offset after the last record that a consumer may see.
    pub end: i64,
    /// Offset up to which the work is done: the committed one, or the reader's own.
    pub reached: i64,
    /// Whether nothing stands in its way: there is room, and whatever takes the records answers.
    pub is_free: bool,
}

impl Look {
    /// Returns the number of records that wait.
    pub fn lag_records(&self) -> i64 {
        self.end.saturating_sub(self.reached).max(0)
    }
}

/// Says what has changed since the look before, and what holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lag over all assigned partitions.
    pub lag_records: i64,
    /// Partitions whose stall is new.
    pub stalled: BTreeSet<i32>,
    /// Partitions that move again, or are assigned no more.
    pub recovered: BTreeSet<i32>,
    /// Number of partitions that are stalled.
    pub stalled_count: usize,
    /// Whether a stall has lasted until only a restart is left to try.
    pub is_hopeless: bool,
}

/// Remembers how long each partition has stood still without a reason.
#[derive(Clone, Debug)]
pub struct Progress {
    stall_max: Duration,
    looked: Option<Instant>,
    partitions: BTreeMap<i32, Standing>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    reached: i64,
    /// Time with lag, without a move, and with nothing in the way.
    idle: Duration,
    is_stalled: bool,
}

impl Progress {
    /// Begins without any partition. `stall_max` is the longest stand that is no stall.
    pub fn new(stall_max: Duration) -> Self {
        Self { stall_max, looked: None, partitions: BTreeMap::new() }
    }

    /// Takes the looks at all assigned partitions, and says what they mean.
    ///
    /// Guarantee: time with something in the way does not count, and does not wipe out the time before it
    /// either, so a lane that is full now and then hides no partition that nobody reads. A move wipes it out,
    /// whatever its direction.
    pub fn look(&mut self, now: Instant, looks: &BTreeMap<i32, Look>) -> Verdict {
        let since = self.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        self.looked = Some(now);
        let mut verdict = Verdict::default();
        let before = std::mem::take(&mut self.partitions);
        for (partition, look) in looks {
            let old = before.get(partition);
            let standing = self.stand(old, look, since.min(GAP_MAX));
            verdict.lag_records = verdict.lag_records.saturating_add(look.lag_records());
            verdict.stalled_count += usize::from(standing.is_stalled);
            verdict.is_hopeless |= standing.idle >= self.stall_max * STALLS_MAX;
            match (old.is_some_and(|old| old.is_stalled), standing.is_stalled) {
                (false, true) => _ = verdict.stalled.insert(*partition),
                (true, false) => _ = verdict.recovered.insert(*partition),
                _ => {}
            }
            self.partitions.insert(*partition, standing);
        }
        let gone = before.iter().filter(|(partition, old)| old.is_stalled && !looks.contains_key(partition));
        verdict.recovered.extend(gone.map(|(partition, _)| *partition));
        verdict
    }

    fn stand(&self, old: Option<&Standing>, look: &Look, since: Duration) -> Standing {
        let idle = match old {
            Some(old) if old.reached == look.reached && look.lag_records() > 0 => {
                old.idle + if look.is_free { since } else { Duration::ZERO }
            }
            _ => Duration::ZERO,
        };
        Standing { reached: look.reached, idle, is_stalled: idle >= self.stall_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STALL_MAX: Duration = Duration::from_secs(30);

    /// One look at one partition: seconds since the one before, then what was found; none while it is not
    /// assigned.
    type Step = (u64, Option<(i64, i64, bool)>);

    fn step() -> impl Strategy<Value = Step> {
        (0..20_u64, prop::option::weighted(0.95, (0..3_i64, 0..2_i64, prop::bool::weighted(0.7))))
    }

    /// Reckons from the whole history, step by step backwards.
    fn idle(steps: &[Step]) -> Duration {
        let mut idle = Duration::ZERO;
        for pair in steps.windows(2).rev() {
            let [(_, Some((_, before, _))), (seconds, Some((lag, reached, is_free)))] = pair else { break };
            if before != reached || *lag == 0 {
                break;
            }
            if *is_free {
                idle += Duration::from_secs(*seconds).min(GAP_MAX);
            }
        }
        idle
    }

    proptest! {
        #[test]
        fn a_stall_is_lag_that_stands_still_for_too_long_with_nothing_in_its_way(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut progress = Progress::new(STALL_MAX);
            let (mut now, mut was_stalled) = (Instant::now(), false);
            for (number, (seconds, found)) in steps.iter().enumerate() {
                now += Duration::from_secs(*seconds);
                let look = found.map(|(lag, reached, is_free)| Look { end: reached + lag, reached, is_free });
                let verdict = progress.look(now, &look.into_iter().map(|look| (7, look)).collect());
                let idle = idle(&steps[..=number]);
                let is_stalled = idle >= STALL_MAX;
                prop_assert_eq!(verdict.lag_records, look.map_or(0, |look| look.lag_records()));
                prop_assert_eq!(verdict.stalled_count, usize::from(is_stalled));
                prop_assert_eq!(verdict.stalled.contains(&7), is_stalled && !was_stalled);
                prop_assert_eq!(verdict.recovered.contains(&7), was_stalled && !is_stalled);
                prop_assert_eq!(verdict.is_hopeless, idle >= STALL_MAX * STALLS_MAX);
                was_stalled = is_stalled;
            }
        }
    }

    fn look_for(seconds: u64, look: impl Fn(u64) -> Look) -> Verdict {
        let mut progress = Progress::new(STALL_MAX);
        let begun = Instant::now();
        let mut verdict = Verdict::default();
        for second in (0..=seconds).step_by(5) {
            let now = begun + Duration::from_secs(second);
            verdict = progress.look(now, &[(0, look(second))].into());
        }
        verdict
    }

    #[test]
    fn what_is_done_or_waits_for_something_is_no_stall() {
        let stuck = Look { end: 180, reached: 100, is_free: true };
        assert_eq!(look_for(30, |_| stuck).stalled_count, 1);
        assert!(!look_for(30, |_| stuck).is_hopeless && look_for(60, |_| stuck).is_hopeless);
        assert_eq!(look_for(600, |_| Look { reached: 180, ..stuck }).stalled_count, 0);
        assert_eq!(look_for(600, |_| Look { is_free: false, ..stuck }).stalled_count, 0);
        let slow = |second| Look { reached: i64::try_from(second / 25).unwrap(), ..stuck };
        assert_eq!(look_for(600, slow).stalled_count, 0);
        // Something is in the way every other time, and hides nothing.
        assert_eq!(look_for(60, |second| Look { is_free: second % 10 == 0, ..stuck }).stalled_count, 1);
    }
}

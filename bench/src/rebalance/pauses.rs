//! The longest time in which nothing came from a partition. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// When something came from which partition, in order.
pub(super) type Arrivals = Vec<(Instant, i32)>;

/// Returns the longest part of the window in which a partition was silent.
pub(super) fn longest(arrivals: &Arrivals, window: Range<Instant>) -> Duration {
    let mut partitions: BTreeMap<i32, Vec<Instant>> = BTreeMap::new();
    for (at, partition) in arrivals {
        let times = partitions.entry(*partition).or_default();
        if window.contains(at) {
            times.push(*at);
        }
    }
    let silence = |times: Vec<Instant>| {
        let ends = times.iter().copied().chain([window.end]);
        let begins = [window.start].into_iter().chain(times.iter().copied());
        begins.zip(ends).map(|(begin, end)| end - begin).max().unwrap_or_default()
    };
    partitions.into_values().map(silence).max().unwrap_or(window.end - window.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quietest_partition_counts_and_the_edges_of_the_window_do_too() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds: u32, partition: i32| (begin + second * seconds, partition);
        let arrivals = vec![at(1, 0), at(1, 1), at(2, 0), at(3, 0), at(5, 1), at(6, 0)];
        assert_eq!(longest(&arrivals, begin..begin + second * 7), second * 4);
        assert_eq!(longest(&arrivals, begin..begin + second * 3), second * 2, "partition 1 from 1 on");
        assert_eq!(longest(&arrivals, begin + second * 6..begin + second * 9), second * 3);
        assert_eq!(longest(&Vec::new(), begin..begin + second), second);
    }
}

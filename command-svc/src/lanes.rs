//! Which lane writes which partition, and what stands in a lane's way.

use chassis::admin::Latch;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// Holds what the lanes, the router and the watch on progress tell each other.
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    latch: Latch,
}

struct Inner {
    of: BTreeMap<i32, usize>,
    obstacles: Vec<Obstacles>,
}

#[derive(Clone, Copy, Default)]
struct Obstacles {
    is_full: bool,
    is_away: bool,
}

impl Lanes {
    /// Opens the latch, which is closed while any lane's database is away.
    pub(crate) fn new(count: usize, latch: Latch) -> Self {
        latch.open();
        let inner = Inner { of: BTreeMap::new(), obstacles: vec![Obstacles::default(); count] };
        Self { inner: Mutex::new(inner), latch }
    }

    /// Gives each assigned partition a lane; one that had a lane keeps it.
    pub(crate) fn spread(&self, assigned: &BTreeSet<i32>) {
        let mut inner = self.inner.lock();
        let count = inner.obstacles.len();
        spread(&mut inner.of, assigned, count);
    }

    /// Returns the lane of an assigned partition.
    pub(crate) fn of(&self, partition: i32) -> Option<usize> {
        self.inner.lock().of.get(&partition).copied()
    }

    /// Notes whether the lane takes no more records.
    pub(crate) fn set_full(&self, lane: usize, is_full: bool) {
        self.inner.lock().obstacles[lane].is_full = is_full;
    }

    /// Notes whether the lane's database is away.
    pub(crate) fn set_away(&self, lane: usize, is_away: bool) {
        let mut inner = self.inner.lock();
        inner.obstacles[lane].is_away = is_away;
        // Under the lock, so that the last word of several lanes is true.
        if inner.obstacles.iter().any(|lane| lane.is_away) {
            self.latch.close();
        } else {
            self.latch.open();
        }
    }

    /// Says whether nothing stands in a partition's way.
    pub(crate) fn is_free(&self, partition: i32) -> bool {
        let inner = self.inner.lock();
        let lane = inner.of.get(&partition).map(|lane| inner.obstacles[*lane]);
        lane.is_none_or(|lane| !lane.is_full && !lane.is_away)
    }
}

/// Gives each new partition to the lane with the fewest.
fn spread(of: &mut BTreeMap<i32, usize>, assigned: &BTreeSet<i32>, lanes: usize) {
    of.retain(|partition, _| assigned.contains(partition));
    let mut counts = vec![0_usize; lanes];
    of.values().for_each(|lane| counts[*lane] += 1);
    for partition in assigned {
        of.entry(*partition).or_insert_with(|| {
            let lane = (0..lanes).min_by_key(|lane| counts[*lane]).unwrap_or(0);
            counts[lane] += 1;
            lane
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chassis::admin::Readiness;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partitions_keep_their_lane_and_new_ones_go_where_there_are_fewest(
            assignments in prop::collection::vec(prop::collection::btree_set(0..40_i32, 0..30), 1..8),
            lanes in 1..6_usize,
        ) {
            let mut of = BTreeMap::new();
            for assigned in assignments {
                let before = of.clone();
                spread(&mut of, &assigned, lanes);
                prop_assert_eq!(of.keys().copied().collect::<BTreeSet<_>>(), assigned);
                for (partition, lane) in &of {
                    prop_assert!(*lane < lanes && before.get(partition).is_none_or(|old| old == lane));
                }
                let count = |of: &BTreeMap<i32, usize>, lane| of.values().filter(|one| **one == lane).count();
                let stayed: BTreeMap<_, _> =
                    before.into_iter().filter(|(partition, _)| of.contains_key(partition)).collect();
                for lane in 0..lanes {
                    // A lane that got one had no more than the fewest.
                    let has_new = count(&of, lane) > count(&stayed, lane);
                    prop_assert!(!has_new || (0..lanes).all(|other| count(&of, lane) <= count(&of, other) + 1));
                }
            }
        }
    }

    #[test]
    fn every_second_partition_is_spread_over_all_lanes() {
        let mut of = BTreeMap::new();
        spread(&mut of, &[0, 2, 4, 6].into(), 2);
        assert_eq!(of.values().copied().collect::<Vec<_>>(), [0, 1, 0, 1]);
    }

    #[test]
    fn one_lane_whose_database_is_away_keeps_the_service_unready() {
        let readiness = Readiness::default();
        let lanes = Lanes::new(2, readiness.latch("postgres"));
        lanes.spread(&[0, 1].into());
        assert!(readiness.is_ready() && lanes.is_free(0) && lanes.is_free(1));
        lanes.set_away(0, true);
        lanes.set_away(1, false); // a healthy lane has written
        assert!(!readiness.is_ready() && !lanes.is_free(0) && lanes.is_free(1));
        lanes.set_away(0, false);
        assert!(readiness.is_ready());
    }
}

//! What goes on by itself, and must not stand still unseen: the spool's thread, the forwarder, the reader of
//! TLS files.
//!
//! Each says how many steps it has made, whether it has one to make, and whether that waits for nobody else.
//! One that stands still for `STALL_MS_MAX` with nothing in its way makes the gateway unready, and after
//! twice the time not live: a restart is what helps a thread that hangs in a system call.

use chassis::Chassis;
use chassis::admin::{Latch, Liveness};
use chassis::kafka::{Look, Progress};
use prometheus::IntGaugeVec;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// Interval between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Name of the latch, and of what is not live.
const LATCH: &str = "progress";

/// How one of them stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Steps made.
    pub(crate) steps: u64,
    /// Whether there is one to make.
    pub(crate) has_work: bool,
    /// Whether it waits for something outside of this process, which may take its time.
    pub(crate) waits_outside: bool,
}

type Ask<'a> = Box<dyn Fn() -> Standing + Send + 'a>;

/// Watches over all of them.
pub(crate) struct Watchdog<'a> {
    watched: Vec<(&'static str, Ask<'a>)>,
    progress: Progress,
    latch: Latch,
    liveness: Liveness,
    stalled: IntGaugeVec,
}

impl<'a> Watchdog<'a> {
    /// Watches nothing yet.
    pub(crate) fn new(stall_max: Duration, chassis: &Chassis, stalled: IntGaugeVec) -> Self {
        let latch = chassis.readiness.latch(LATCH);
        latch.open();
        let liveness = chassis.liveness.clone();
        Self { watched: Vec::new(), progress: Progress::new(stall_max), latch, liveness, stalled }
    }

    /// Watches one more.
    pub(crate) fn add(&mut self, name: &'static str, standing: impl Fn() -> Standing + Send + 'a) {
        self.stalled.with_label_values(&[name]).set(0);
        self.watched.push((name, Box::new(standing)));
    }

    /// Looks from time to time; never ends.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now());
        }
    }

    fn look(&mut self, now: Instant) {
        let looks: BTreeMap<_, _> =
            (0..).zip(self.watched.iter().map(|(_, standing)| look_of(standing()))).collect();
        let verdict = self.progress.look(now, &looks);
        for (number, (name, _)) in (0..).zip(&self.watched) {
            if verdict.stalled.contains(&number) {
                tracing::error!(name, "stands still with nothing in its way");
                self.stalled.with_label_values(&[name]).set(1);
            } else if verdict.recovered.contains(&number) {
                tracing::info!(name, "stands still no more");
                self.stalled.with_label_values(&[name]).set(0);
            }
        }
        if verdict.stalled_count == 0 {
            self.latch.open();
        } else {
            self.latch.close();
        }
        self.liveness.set_stuck(LATCH, verdict.is_hopeless);
    }
}

fn look_of(standing: Standing) -> Look {
    let reached = i64::try_from(standing.steps).unwrap_or(i64::MAX - 1);
    Look { end: reached + i64::from(standing.has_work), reached, is_free: !standing.waits_outside }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[test]
    fn stand_is_seen_then_hopeless_and_over_with_the_next_step() {
        let (chassis, start) = (Chassis::new(), Instant::now());
        let metrics = Metrics::register(&chassis.registry).unwrap();
        let mut watchdog = Watchdog::new(Duration::from_secs(10), &chassis, metrics.stalled.clone());
        let standing = Arc::new(Mutex::new(Standing { steps: 7, ..Standing::default() }));
        let watched = standing.clone();
        watchdog.add("thread", move || *watched.lock());
        let mut look = |s| {
            watchdog.look(start + Duration::from_secs(s));
            (chassis.readiness.is_ready(), chassis.liveness.is_live())
        };
        assert_eq!([0, 10, 20, 30].map(&mut look), [(true, true); 4], "nothing to do is no stall");
        standing.lock().has_work = true;
        assert_eq!(
            [31, 39, 40, 50].map(&mut look),
            [(true, true), (true, true), (false, true), (false, false)]
        );
        assert_eq!(metrics.stalled.with_label_values(&["thread"]).get(), 1);
        standing.lock().steps = 8;
        assert_eq!(look(51), (true, true));
        assert_eq!(metrics.stalled.with_label_values(&["thread"]).get(), 0);
        standing.lock().waits_outside = true;
        assert_eq!([60, 70, 80].map(&mut look), [(true, true); 3], "somebody else's time");
    }
}

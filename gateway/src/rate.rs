//! How fast one device may publish, over all its connections and requests.
//!
//! A bucket is one number: the time at which it would be full again (the generic cell rate algorithm). A message moves it
//! by one interval; while it lies further ahead than the burst allows, the message waits. Nothing is dropped: the device's
//! socket is not read meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many buckets are kept before the first look for those that are full again and so need not be kept.
const BUCKETS_MIN: usize = 1_024;

/// The buckets of all devices.
#[derive(Debug)]
pub(crate) struct Rates {
    start: Instant,
    interval_ns: u64,
    burst_ns: u64,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    of_devices: HashMap<Arc<str>, Arc<AtomicU64>>,
    /// With so many, those that are full are dropped.
    prune_at: usize,
}

/// One device's bucket.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    rates: Arc<Rates>,
    full_at_ns: Arc<AtomicU64>,
}

impl Rates {
    /// Lets each device publish `rate` messages a second, and `burst` at once after it has been quiet.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(rate.max(1));
        Self {
            start: Instant::now(),
            interval_ns,
            burst_ns: interval_ns * u64::from(burst.max(1)),
            buckets: Mutex::new(Buckets { of_devices: HashMap::new(), prune_at: BUCKETS_MIN }),
        }
    }

    /// The bucket of a device: the same one as long as it is not full.
    pub(crate) fn of(self: &Arc<Self>, sensor_id: &Arc<str>) -> Rate {
        let mut buckets = self.buckets.lock();
        if let Some(bucket) = buckets.of_devices.get(sensor_id) {
            return Rate { rates: self.clone(), full_at_ns: bucket.clone() };
        }
        if buckets.of_devices.len() >= buckets.prune_at {
            let now = self.ns(Instant::now());
            // A full bucket is as good as a new one, unless somebody still draws from it.
            buckets
                .of_devices
                .retain(|_, bucket| Arc::strong_count(bucket) > 1 || bucket.load(Ordering::Relaxed) > now);
            buckets.prune_at = (2 * buckets.of_devices.len()).max(BUCKETS_MIN);
        }
        let bucket: Arc<AtomicU64> = Arc::default();
        buckets.of_devices.insert(sensor_id.clone(), bucket.clone());
        Rate { rates: self.clone(), full_at_ns: bucket }
    }

    fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Rate {
    /// Counts one message, and says how long it must wait; none when it may go at once.
    pub(crate) fn take(&self, at: Instant) -> Option<Duration> {
        let (now, Rates { interval_ns, burst_ns, .. }) = (self.rates.ns(at), &*self.rates);
        let full_at = |before: u64| before.max(now).saturating_add(*interval_ns);
        let before = self
            .full_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(full_at(before)))
            .unwrap_or(u64::MAX);
        let wait = full_at(before).saturating_sub(now.saturating_add(*burst_ns));
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// Counts `messages` if all of them may go at once; otherwise counts none, and says when to ask again.
    ///
    /// More than a burst pass when the bucket is full: they could never pass otherwise.
    pub(crate) fn take_now(&self, messages: usize, at: Instant) -> Result<(), Duration> {
        let (now, Rates { interval_ns, burst_ns, .. }) = (self.rates.ns(at), &*self.rates);
        let cost = interval_ns.saturating_mul(messages as u64);
        let full_at = |before: u64| before.max(now).saturating_add(cost);
        let allowed = now.saturating_add((*burst_ns).max(cost));
        self.full_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(full_at(before)).filter(|after| *after <= allowed)
            })
            .map(|_| ())
            .map_err(|before| Duration::from_nanos(full_at(before).saturating_sub(allowed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(rate: u32, burst: u32) -> Arc<Rates> {
        Arc::new(Rates::new(rate, burst))
    }

    #[test]
    fn burst_passes_at_once_and_the_rest_at_the_rate() {
        let rates = rates(10, 3);
        let (one, start) = (rates.of(&"a".into()), rates.start);
        assert_eq!([(); 3].map(|()| one.take(start)), [None; 3]);
        assert_eq!(one.take(start), Some(Duration::from_millis(100)));
        let other_connection = rates.of(&"a".into());
        assert_eq!(other_connection.take(start), Some(Duration::from_millis(200)), "one bucket per device");
        assert_eq!(rates.of(&"b".into()).take(start), None);
        let later = start + Duration::from_secs(1);
        assert_eq!([(); 3].map(|()| one.take(later)), [None; 3], "quiet fills it again");
        assert!(one.take(later).is_some());
    }

    #[test]
    fn messages_of_one_request_pass_together_or_not_at_all() {
        let rates = rates(10, 3);
        let (one, start) = (rates.of(&"a".into()), rates.start);
        assert_eq!(one.take_now(2, start), Ok(()));
        assert_eq!(one.take_now(2, start), Err(Duration::from_millis(100)));
        assert_eq!(one.take_now(2, start + Duration::from_millis(100)), Ok(()));
        let quiet = start + Duration::from_secs(9);
        assert_eq!(one.take_now(50, quiet), Ok(()), "more than a burst, but after quiet");
        assert_eq!(one.take_now(1, quiet), Err(Duration::from_millis(4_800)));
    }

    #[test]
    fn full_buckets_are_not_kept() {
        let rates = rates(1_000_000, 1);
        for number in 0..10 * BUCKETS_MIN {
            rates.of(&number.to_string().into()).take(rates.start);
        }
        assert!(rates.buckets.lock().of_devices.len() <= 2 * BUCKETS_MIN);
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass_in_any_time(
            (rate, burst) in (1..1_000_u32, 1..100_u32),
            gaps_ms in proptest::collection::vec(0..50_u64, 1..200),
        ) {
            let rates = rates(rate, burst);
            let one = rates.of(&"a".into());
            let (mut now, mut passed) = (rates.start, 0_u64);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                passed += u64::from(one.take_now(1, now).is_ok());
            }
            let seconds = (now - rates.start).as_secs_f64();
            let allowed = f64::from(burst) + seconds * f64::from(rate) + 1.0;
            prop_assert!(passed as f64 <= allowed, "{passed} of {allowed}");
        }
    }
}

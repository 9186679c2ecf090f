//! What one device may cost, over all its connections and requests, MQTT and HTTP alike. No I/O.
//!
//! An [`Account`] has three parts: a bucket of cost that fills with time, a number of connections, and a
//! share of the bytes that all devices together may have in flight. A device is charged for all that it
//! sends: readings, bytes, refused topics, SUBSCRIBE and PINGREQ, connections. Nothing is dropped for it: a
//! device that has overdrawn its account is not read meanwhile.
//!
//! A bucket is one number: the time at which it would be full again (the generic cell rate algorithm). A unit
//! of cost moves it by one interval; while it lies further ahead than the burst allows, the device waits.
//!
//! Bounds: an account lives as long as somebody draws from it, or owes it something: one for each device that
//! is connected or was within the last minute.

use crate::config::Limits;
use crate::durable::budget::{Budget, DeviceBudget};
use parking_lot::Mutex;
use schema::ReadingCreatedEvent;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Accounts that are kept before the first look for those that need not be.
const ACCOUNTS_MIN: usize = 1_024;
/// Longest wait of a device that has overdrawn its account. One packet costs no more than this, unless it
/// subscribes to tens of thousands of topics; who pays by connecting again and again is slowed down by as
/// much for each connection.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes that cost as much as a reading does, whose own first ones are free. A burst is five thousand units:
/// two and a half megabytes of attributes, which hold everybody else up for less than their patience.
const UNIT_BYTES: usize = 512;
/// Bytes of a row beside its attributes, in memory and on disk.
const ROW_BYTES: usize = 64;
/// What a byte that nobody can use costs, in bytes: it is kept as it came, beside the readings, for an
/// operator to look at.
const UNDECODABLE_FACTOR: usize = 2;
/// Cost of a connection: its handshake is a thousand times the work of a message, but devices on bad lines
/// connect often.
pub(crate) const CONNECT_COST: u64 = 10;

/// Returns the cost of `count` readings, filters or other things that came in `bytes`.
pub(crate) fn cost(count: usize, bytes: usize) -> u64 {
    (count.max(1) + bytes / UNIT_BYTES) as u64
}

/// Returns the cost of a message that was decoded: by what came, or by its rows when they are larger.
/// Each row holds all attributes of its reading, so that one small message could be megabytes in the
/// database.
pub(crate) fn cost_of_rows(readings: usize, bytes: usize, row_bytes: usize) -> u64 {
    cost(readings, bytes.max(row_bytes))
}

/// Returns the cost of a message that is kept as a dead letter.
pub(crate) fn cost_of_undecodable(bytes: usize) -> u64 {
    cost(1, UNDECODABLE_FACTOR * bytes)
}

/// Counts the bytes of the rows that a reading becomes.
pub(crate) fn row_bytes(reading: &ReadingCreatedEvent) -> usize {
    reading.values.len() * (ROW_BYTES + schema::attributes_bytes(&reading.attributes))
}

/// The accounts of all devices.
#[derive(Debug)]
pub(crate) struct Accounts {
    start: Instant,
    interval_ns: u64,
    burst_ns: u64,
    connections_max: usize,
    budget: Budget,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    of_sensors: HashMap<Arc<str>, Arc<State>>,
    /// Number of accounts at which those that need not be kept are dropped.
    prune_at: usize,
}

#[derive(Debug)]
struct State {
    full_at_ns: AtomicU64,
    connections: AtomicUsize,
    budget: DeviceBudget,
}

/// One device's account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    accounts: Arc<Accounts>,
    state: Arc<State>,
}

impl Accounts {
    /// Opens none yet.
    pub(crate) fn new(limits: &Limits) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(limits.publish_rate_max.max(1));
        Self {
            start: Instant::now(),
            interval_ns,
            burst_ns: interval_ns * u64::from(limits.publish_burst_max.max(1)),
            connections_max: limits.connections_per_device_max,
            budget: Budget::new(limits.in_flight_total_bytes_max, limits.in_flight_device_bytes_max),
            open: Mutex::new(Open { of_sensors: HashMap::new(), prune_at: ACCOUNTS_MIN }),
        }
    }

    /// Opens the account of a device: the same one as long as it is in use.
    pub(crate) fn of(self: &Arc<Self>, sensor_id: &Arc<str>) -> Account {
        let mut open = self.open.lock();
        if let Some(state) = open.of_sensors.get(sensor_id) {
            return Account { accounts: self.clone(), state: state.clone() };
        }
        if open.of_sensors.len() >= open.prune_at {
            let now = self.ns(Instant::now());
            open.of_sensors.retain(|_, state| Arc::strong_count(state) > 1 || !state.is_as_new(now));
            open.prune_at = (2 * open.of_sensors.len()).max(ACCOUNTS_MIN);
        }
        let state = Arc::new(State {
            full_at_ns: AtomicU64::default(),
            connections: AtomicUsize::default(),
            budget: self.budget.of_device(),
        });
        open.of_sensors.insert(sensor_id.clone(), state.clone());
        Account { accounts: self.clone(), state }
    }

    fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl State {
    /// Tells whether a new account would be the same: its bucket is full, and nothing of it is in flight.
    fn is_as_new(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns && self.budget.is_unused()
    }
}

impl Account {
    /// Charges a cost, and says how long the device must wait for it; none when it need not.
    pub(crate) fn charge(&self, cost: u64, at: Instant) -> Option<Duration> {
        let (now, Accounts { interval_ns, burst_ns, .. }) = (self.accounts.ns(at), &*self.accounts);
        let allowed = now.saturating_add(*burst_ns);
        let most = allowed.saturating_add(WAIT_MAX.as_secs() * 1_000_000_000);
        let full_at =
            |before: u64| before.max(now).saturating_add(interval_ns.saturating_mul(cost)).min(most);
        let before = self
            .state
            .full_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(full_at(before).max(before)))
            .unwrap_or(u64::MAX);
        positive(full_at(before).saturating_sub(allowed))
    }

    /// Charges a cost if the device need not wait for it; otherwise charges nothing, and says when to ask
    /// again.
    ///
    /// More than a burst passes when the bucket is full: it could never pass otherwise.
    pub(crate) fn charge_now(&self, cost: u64, at: Instant) -> Result<(), Duration> {
        let (now, Accounts { interval_ns, burst_ns, .. }) = (self.accounts.ns(at), &*self.accounts);
        let cost_ns = interval_ns.saturating_mul(cost);
        let full_at = |before: u64| before.max(now).saturating_add(cost_ns);
        let allowed = now.saturating_add((*burst_ns).max(cost_ns));
        self.state
            .full_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(full_at(before)).filter(|after| *after <= allowed)
            })
            .map(|_| ())
            .map_err(|before| Duration::from_nanos(full_at(before).saturating_sub(allowed)))
    }

    /// Says how long the device must wait before anything of it is read; none when its account is not
    /// overdrawn.
    pub(crate) fn wait(&self, at: Instant) -> Option<Duration> {
        let allowed = self.accounts.ns(at).saturating_add(self.accounts.burst_ns);
        positive(self.state.full_at_ns.load(Ordering::Relaxed).saturating_sub(allowed))
    }

    /// Charges one more connection and takes a place for it; none when the device has as many as it may.
    pub(crate) fn connect(&self, at: Instant) -> Option<Connected> {
        let connections_max = self.accounts.connections_max;
        // What it must wait for, its first packet waits for. A handshake that ends in a refusal was no less
        // work.
        let _ = self.charge(CONNECT_COST, at);
        self.state
            .connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < connections_max).then_some(count + 1)
            })
            .ok()?;
        Some(Connected { account: self.clone() })
    }

    /// Its share of the bytes in flight.
    pub(crate) fn budget(&self) -> &DeviceBudget {
        &self.state.budget
    }
}

fn positive(wait_ns: u64) -> Option<Duration> {
    (wait_ns > 0).then(|| Duration::from_nanos(wait_ns))
}

/// A connection of a device; its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    account: Account,
}

impl Connected {
    /// Returns the account that it belongs to.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.account.state.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts(rate: u32, burst: u32) -> Arc<Accounts> {
        let limits = Limits { publish_rate_max: rate, publish_burst_max: burst, ..Limits::default() };
        Arc::new(Accounts::new(&limits))
    }

    #[test]
    fn burst_passes_at_once_and_the_rest_at_the_rate() {
        let accounts = accounts(10, 3);
        let (one, start) = (accounts.of(&"a".into()), accounts.start);
        assert_eq!([(); 3].map(|()| one.charge(1, start)), [None; 3]);
        assert_eq!(one.charge(1, start), Some(Duration::from_millis(100)));
        let other_connection = accounts.of(&"a".into());
        assert_eq!(other_connection.charge(2, start), Some(Duration::from_millis(300)), "one for a device");
        assert_eq!(other_connection.wait(start), Some(Duration::from_millis(300)));
        assert_eq!(accounts.of(&"b".into()).charge(3, start), None);
        let later = start + Duration::from_secs(1);
        assert_eq!(one.wait(later), None);
        assert_eq!([(); 3].map(|()| one.charge(1, later)), [None; 3], "quiet fills it again");
        assert!(one.charge(1, later).is_some());
    }

    #[test]
    fn request_passes_as_a_whole_or_not_at_all() {
        let accounts = accounts(10, 3);
        let (one, start) = (accounts.of(&"a".into()), accounts.start);
        assert_eq!(one.charge_now(2, start), Ok(()));
        assert_eq!(one.charge_now(2, start), Err(Duration::from_millis(100)));
        assert_eq!(one.charge_now(2, start + Duration::from_millis(100)), Ok(()));
        let quiet = start + Duration::from_secs(9);
        assert_eq!(one.charge_now(50, quiet), Ok(()), "more than a burst, but after quiet");
        assert_eq!(one.charge_now(1, quiet), Err(Duration::from_millis(4_800)));
    }

    #[test]
    fn nobody_waits_longer_than_is_written_down() {
        let accounts = accounts(10, 3);
        let (one, start) = (accounts.of(&"a".into()), accounts.start);
        assert_eq!(one.charge(80_000, start), Some(WAIT_MAX));
        assert_eq!(one.charge(80_000, start), Some(WAIT_MAX));
        assert_eq!(one.wait(start + WAIT_MAX), None);
        // A request of more than a burst may have moved the bucket further: a charge never moves it back.
        let later = start + Duration::from_secs(600);
        assert_eq!(one.charge_now(1_000, later), Ok(()));
        assert_eq!(one.charge(1, later), Some(WAIT_MAX));
        assert_eq!(one.wait(later), Some(Duration::from_millis(99_700)));
    }

    #[test]
    fn cost_counts_readings_bytes_and_the_rows_that_they_become() {
        assert_eq!((cost(0, 0), cost(1, 100), cost(1, 5_000), cost(1_024, 256 << 10)), (1, 1, 10, 1_536));
        let now = schema::Timestamp::now();
        let reading = |metrics: usize, text_bytes: usize| ReadingCreatedEvent {
            event_id: uuid::Uuid::nil(),
            sensor_id: "s".to_owned(),
            device_type: String::new(),
            zone_id: String::new(),
            values: (0..metrics).map(|number| (format!("m{number}"), 1.0)).collect(),
            attributes: [("text".to_owned(), "x".repeat(text_bytes).into())].into_iter().collect(),
            reading_at: now,
            received_at: now,
        };
        let cost_of_readings = |readings: &[ReadingCreatedEvent], bytes: usize| {
            cost_of_rows(readings.len(), bytes, readings.iter().map(row_bytes).sum())
        };
        assert_eq!(cost_of_readings(&[reading(1, 100)], 150), 1);
        assert_eq!(cost_of_readings(&[reading(3, 10), reading(3, 10)], 150), 2);
        assert!(cost_of_readings(&[reading(256, 8 << 10)], 12_000) > 2_048, "two megabytes of rows");
        assert_eq!((cost_of_undecodable(0), cost_of_undecodable(200 << 10)), (1, 801));
        assert_eq!(cost_of_readings(&[], 0), 1, "what measures nothing costs what a message costs");
    }

    #[test]
    fn connections_of_a_device_are_limited_and_charged() {
        let limits = Limits {
            connections_per_device_max: 2,
            publish_rate_max: 10,
            publish_burst_max: 20,
            ..Limits::default()
        };
        let accounts = Arc::new(Accounts::new(&limits));
        let (one, start) = (accounts.of(&"a".into()), accounts.start);
        let first = one.connect(start).unwrap();
        let _second = accounts.of(&"a".into()).connect(start).unwrap();
        assert!(one.connect(start).is_none());
        assert!(accounts.of(&"b".into()).connect(start).is_some());
        assert_eq!(one.charge(1, start), Some(Duration::from_millis(1_100)), "two and a refused one cost 30");
        drop(first);
        assert!(one.connect(start).is_some());
    }

    #[test]
    fn accounts_that_nobody_needs_are_not_kept() {
        let accounts = accounts(1_000_000, 1);
        for number in 0..10 * ACCOUNTS_MIN {
            accounts.of(&number.to_string().into()).charge(1, accounts.start);
        }
        assert!(accounts.open.lock().of_sensors.len() <= 2 * ACCOUNTS_MIN);
    }

    #[test]
    fn account_with_something_in_flight_is_kept_without_a_connection() {
        let accounts = accounts(1_000_000, 1);
        let held = accounts.of(&"held".into()).budget().try_take(1_000).unwrap();
        for number in 0..10 * ACCOUNTS_MIN {
            accounts.of(&number.to_string().into());
        }
        let limits = Limits::default();
        let rest = limits.in_flight_device_bytes_max - 1_000;
        let again = accounts.of(&"held".into());
        assert!(again.budget().try_take(rest + 1).is_err() && again.budget().try_take(rest).is_ok());
        drop(held);
        assert!(again.budget().try_take(rest + 1).is_ok());
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass_in_any_time(
            (rate, burst) in (1..1_000_u32, 1..100_u32),
            gaps_ms in proptest::collection::vec(0..50_u64, 1..200),
        ) {
            let accounts = accounts(rate, burst);
            let one = accounts.of(&"a".into());
            let (mut now, mut passed) = (accounts.start, 0_u64);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                passed += u64::from(one.charge_now(1, now).is_ok());
            }
            let seconds = (now - accounts.start).as_secs_f64();
            let allowed = f64::from(burst) + seconds * f64::from(rate) + 1.0;
            prop_assert!(passed as f64 <= allowed, "{passed} of {allowed}");
        }
    }
}

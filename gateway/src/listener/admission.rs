//! Permits of newcomers: connections in total and by address, and handshakes that compute at a time.

use crate::Limits;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Addresses that are kept before the first look for those that need not be.
const ADDRESSES_MIN: usize = 1_024;

/// Connections that one counts as whose device has as many as it may: no device comes to that by itself, and
/// one that goes on would have a fifth of a core computing handshakes.
const VAIN_CONNECTIONS: u32 = 10;

/// What newcomers share: the limits of connections, of MQTT and of HTTPS apart, and the permits of
/// handshakes.
pub(crate) struct Admission {
    mqtt: Arc<ConnectionLimit>,
    http: Arc<ConnectionLimit>,
    pub(super) handshake_permits: Arc<Semaphore>,
}

impl Admission {
    /// Starts empty.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            mqtt: Arc::new(ConnectionLimit::new(limits.connections_max, limits)),
            http: Arc::new(ConnectionLimit::new(limits.http_connections_max, limits)),
            handshake_permits: Arc::new(Semaphore::new(limits.handshakes_max)),
        }
    }

    pub(super) fn limit(&self, protocol: Protocol) -> &Arc<ConnectionLimit> {
        match protocol {
            Protocol::Mqtt => &self.mqtt,
            Protocol::Http => &self.http,
        }
    }
}

/// What is spoken behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Mqtt,
    Http,
}

/// Counts connections, in total and by address, and how fast an address makes new ones.
///
/// Bounds: an address is kept while it has connections, or made one within the last seconds.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    total_max: usize,
    address_max: usize,
    interval: Duration,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, Address>,
    /// Number of addresses at which those that need not be kept are dropped.
    prune_at: usize,
}

#[derive(Debug)]
struct Address {
    count: usize,
    /// When as many new connections as there are places may come at once again; see `account`.
    rested_at: Instant,
}

impl ConnectionLimit {
    fn new(total_max: usize, limits: &Limits) -> Self {
        let interval = Duration::from_secs(1) / limits.connection_rate_per_address_max.max(1);
        let address_max = limits.connections_per_address_max;
        Self { total_max, address_max, interval, taken: Mutex::default() }
    }

    /// Takes a place, or says which limit is reached, as a metric label.
    pub(super) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<ConnectionPermit, &'static str> {
        let address = subscriber(address);
        let mut taken = self.taken.lock();
        if taken.by_address.len() >= taken.prune_at {
            taken.by_address.retain(|_, one| one.count > 0 || one.rested_at > now);
            taken.prune_at = (2 * taken.by_address.len()).max(ADDRESSES_MIN);
        }
        if taken.total == self.total_max {
            return Err("connections-max");
        }
        let one = taken.by_address.entry(address).or_insert(Address { count: 0, rested_at: now });
        if one.count == self.address_max {
            return Err("connections-per-address-max");
        }
        let rested_at = one.rested_at.max(now) + self.interval;
        if rested_at > now + self.interval * u32::try_from(self.address_max).unwrap_or(u32::MAX) {
            return Err("connection-rate-per-address-max");
        }
        one.rested_at = rested_at;
        one.count += 1;
        taken.total += 1;
        Ok(ConnectionPermit { limit: self.clone(), address })
    }
}

/// Returns what one subscriber line has: an IPv4 address, or the /64 that an IPv6 host can move about in.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A place that is free again when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
    address: IpAddr,
}

impl ConnectionPermit {
    /// Has the address wait as if [`VAIN_CONNECTIONS`] had come.
    pub(super) fn was_in_vain(&self, now: Instant) {
        if let Some(one) = self.limit.taken.lock().by_address.get_mut(&self.address) {
            one.rested_at = one.rested_at.max(now) + self.limit.interval * (VAIN_CONNECTIONS - 1);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.limit.taken.lock();
        taken.total -= 1;
        if let Some(one) = taken.by_address.get_mut(&self.address) {
            one.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(total_max: usize, address_max: usize, rate: u32) -> Arc<ConnectionLimit> {
        let limits = Limits {
            connections_per_address_max: address_max,
            connection_rate_per_address_max: rate,
            ..Limits::default()
        };
        Arc::new(ConnectionLimit::new(total_max, &limits))
    }

    #[test]
    fn places_are_limited_in_total_and_by_address() {
        let (limit, now) = (limit(3, 2, 1), Instant::now());
        let [a, b, c] =
            ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = limit.take(a, now).unwrap();
        let _second = limit.take(c, now).expect("the same address in IPv6 clothes");
        assert_eq!(limit.take(a, now).unwrap_err(), "connections-per-address-max");
        let _third = limit.take(b, now).unwrap();
        assert_eq!(limit.take(b, now).unwrap_err(), "connections-max");
        drop(first);
        assert!(limit.take(b, now).is_ok());
    }

    #[test]
    fn address_that_connects_again_and_again_is_slowed_down() {
        let (limit, start) = (limit(9, 3, 10), Instant::now());
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert!(limit.take(one, at(0)).is_ok(), "as many at once as may stay");
        }
        assert_eq!(limit.take(one, at(99)).unwrap_err(), "connection-rate-per-address-max");
        assert!(limit.take(other, at(99)).is_ok());
        assert!(limit.take(one, at(100)).is_ok());
        assert_eq!(limit.take(one, at(199)).unwrap_err(), "connection-rate-per-address-max");
        assert!(limit.take(one, at(200)).is_ok());
    }

    #[test]
    fn address_that_connects_in_vain_is_slowed_down_more() {
        let (limit, start) = (limit(9, 3, 10), Instant::now());
        let one = "10.0.0.1".parse().unwrap();
        let at = |ms| start + Duration::from_millis(ms);
        limit.take(one, start).unwrap().was_in_vain(start);
        assert_eq!(limit.take(one, at(799)).unwrap_err(), "connection-rate-per-address-max");
        assert!(limit.take(one, at(800)).is_ok());
    }

    #[test]
    fn addresses_that_are_gone_are_not_kept() {
        let (limit, mut now) = (limit(9, 3, 1_000), Instant::now());
        for number in 0..10 * u32::try_from(ADDRESSES_MIN).unwrap() {
            assert!(limit.take(std::net::Ipv4Addr::from(number).into(), now).is_ok());
            now += Duration::from_millis(1);
        }
        assert!(limit.taken.lock().by_address.len() <= 2 * ADDRESSES_MIN);
    }

    #[test]
    fn host_cannot_multiply_within_its_prefix() {
        let [a, b] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let (limit, now) = (limit(9, 1, 1), Instant::now());
        let _one = limit.take(a, now).unwrap();
        assert!(limit.take(b, now).is_err());
    }
}

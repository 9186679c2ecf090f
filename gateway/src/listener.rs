//! The socket that devices connect to: limits first, then TLS, each connection in its own task.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::identity::Identity;
use crate::notices::Event;
use crate::{Gateway, Limits, Listeners, handshake, http};

/// Without traffic for so long, the kernel asks whether the peer is still there: a client may promise no keep-alive at all.
const PEER_PROBE_AFTER: Duration = Duration::from_secs(60);
/// The wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(100);

/// Addresses that are kept before the first look for those that need not be.
const ADDRESSES_MIN: usize = 1_024;

/// Connections that one counts as whose device has as many as it may: no device comes to that by itself, and one that goes on
/// would have a fifth of a core computing handshakes.
const VAIN_CONNECTIONS: u32 = 10;

/// What newcomers share: places, of MQTT and of HTTPS apart, and turns at the handshake.
pub(crate) struct Entrance {
    mqtt: Arc<Places>,
    http: Arc<Places>,
    turns: Arc<Semaphore>,
}

impl Entrance {
    /// Starts empty.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            mqtt: Arc::new(Places::new(limits.connections_max, limits)),
            http: Arc::new(Places::new(limits.http_connections_max, limits)),
            turns: Arc::new(Semaphore::new(limits.handshakes_max)),
        }
    }

    fn places(&self, protocol: Protocol) -> &Arc<Places> {
        match protocol {
            Protocol::Mqtt => &self.mqtt,
            Protocol::Http => &self.http,
        }
    }
}

/// What is spoken behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Mqtt,
    Http,
}

/// Accepts connections on all sockets until the shutdown.
pub(crate) async fn open(listeners: &Listeners, gateway: &Arc<Gateway>, tasks: &TaskTracker) {
    let mqtt = accept(&listeners.mqtt, Protocol::Mqtt, gateway, tasks);
    match &listeners.http {
        Some(http) => tokio::join!(mqtt, accept(http, Protocol::Http, gateway, tasks)).0,
        None => mqtt.await,
    }
}

async fn accept(listener: &TcpListener, protocol: Protocol, gateway: &Arc<Gateway>, tasks: &TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.shutdown.cancelled() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_WAIT).await;
                continue;
            }
        };
        let place = match gateway.entrance.places(protocol).take(peer.ip(), Instant::now()) {
            Ok(place) => place,
            Err(full) => {
                gateway.metrics.refusals.with_label_values(&[full]).inc();
                continue;
            }
        };
        let gateway = gateway.clone();
        tasks.spawn(async move {
            gateway.metrics.connections.inc();
            gateway.metrics.tls.handshakes.inc();
            // Boxed, so that a long session does not carry the room that its handshake needed.
            let shaken = Box::pin(shake_hands(&gateway, protocol, socket)).await;
            gateway.metrics.tls.handshakes.dec();
            if let Some((identity, stream)) = shaken {
                enter(&gateway, protocol, identity, stream, &place).await;
            }
            gateway.metrics.connections.dec();
            drop(place);
        });
    }
}

/// Serves who has shaken hands, if its device has a place left.
async fn enter(
    gateway: &Arc<Gateway>,
    protocol: Protocol,
    identity: Option<Identity>,
    stream: TlsStream<TcpStream>,
    place: &Place,
) {
    let connected = match &identity {
        Some(identity) => match gateway.accounts.of(&identity.sensor_id).connect(Instant::now()) {
            Some(connected) => Some(connected),
            None => {
                gateway.metrics.refusals.with_label_values(&["connections-per-device-max"]).inc();
                place.was_in_vain(Instant::now());
                return;
            }
        },
        None => None,
    };
    match (protocol, identity, connected) {
        (Protocol::Mqtt, Some(identity), Some(connected)) => {
            connection::serve(gateway.clone(), identity, connected, stream).await;
        }
        (Protocol::Http, identity, connected) => {
            Box::pin(http::serve(gateway.clone(), identity, connected, stream)).await;
        }
        // Nobody gets through an MQTT handshake without a certificate.
        (Protocol::Mqtt, ..) => {}
    }
}

/// TLS, with a time limit that includes the wait for turns; and who came, if there is a certificate.
async fn shake_hands(
    gateway: &Gateway,
    protocol: Protocol,
    socket: TcpStream,
) -> Option<(Option<Identity>, TlsStream<TcpStream>)> {
    let refused = |reason: &str| gateway.metrics.refusals.with_label_values(&[reason]).inc();
    let peer = socket.peer_addr().ok();
    tune(&socket);
    let settings = gateway.tls.present();
    let acceptor = TlsAcceptor::from(match protocol {
        Protocol::Mqtt => settings.mqtt.clone(),
        Protocol::Http => settings.http.clone(),
    });
    let waits = || gateway.metrics.tls.handshake_waits.inc();
    let handshake = in_turns(&gateway.entrance.turns, acceptor.accept(socket), waits);
    let stream = tokio::select! {
        handshake = timeout(gateway.limits.handshake_time_max, handshake) => match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let reason = handshake::reason(&error);
                refused(reason);
                if let Some(others) = gateway.notices.due(Event::Handshake, reason, Instant::now()) {
                    let peer = peer.map(tracing::field::display);
                    tracing::warn!(reason, peer, %error, others, "TLS handshake failed");
                }
                return None;
            }
            Err(_) => {
                refused("handshake-timeout");
                return None;
            }
        },
        () = gateway.shutdown.cancelled() => return None,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.map(|der| Identity::from_certificate(der)).transpose() {
        Ok(identity) => Some((identity, stream)),
        Err(error) => {
            refused("certificate");
            if let Some(others) = gateway.notices.due(Event::Handshake, "certificate", Instant::now()) {
                tracing::info!(%error, others, "certificate names no device");
            }
            None
        }
    }
}

/// Polls `work` only while it has a turn, and gives the turn back while the peer is to speak: who computes is limited, who
/// stays silent keeps nobody waiting. `waits` is told of every turn that is not there at once.
async fn in_turns<F: Future>(turns: &Arc<Semaphore>, work: F, waits: impl Fn()) -> F::Output {
    let mut work = pin!(work);
    let mut asked = None;
    poll_fn(|cx| {
        let is_first = asked.is_none();
        let turn = asked.get_or_insert_with(|| Box::pin(turns.clone().acquire_owned()));
        let turn = turn.as_mut().poll(cx);
        if is_first && turn.is_pending() {
            waits();
        }
        let turn = ready!(turn);
        asked = None;
        let outcome = work.as_mut().poll(cx);
        drop(turn);
        outcome
    })
    .await
}

/// Acknowledgements are small and wanted now; a dead peer is to be noticed.
fn tune(socket: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(PEER_PROBE_AFTER).with_interval(PEER_PROBE_AFTER / 4);
    let tuned = socket.set_nodelay(true).and(SockRef::from(socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket options are not taken");
    }
}

/// Counts connections, in total and by address, and how fast an address makes new ones.
///
/// Bounds: an address is kept while it has connections, or made one within the last seconds.
#[derive(Debug)]
struct Places {
    total_max: usize,
    address_max: usize,
    interval: Duration,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, Address>,
    /// With so many, those that need not be kept are dropped.
    prune_at: usize,
}

#[derive(Debug)]
struct Address {
    count: usize,
    /// When as many new connections as there are places may come at once again; see `account`.
    rested_at: Instant,
}

impl Places {
    fn new(total_max: usize, limits: &Limits) -> Self {
        let interval = Duration::from_secs(1) / limits.connection_rate_per_address_max.max(1);
        let address_max = limits.connections_per_address_max;
        Self { total_max, address_max, interval, taken: Mutex::default() }
    }

    /// Takes a place, or says which limit is reached, as a metric label.
    fn take(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Place, &'static str> {
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
        Ok(Place { places: self.clone(), address })
    }
}

/// What one subscriber line has: an IPv4 address, or the /64 that an IPv6 host can move about in.
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
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Place {
    /// Has the address wait as if [`VAIN_CONNECTIONS`] had come.
    fn was_in_vain(&self, now: Instant) {
        if let Some(one) = self.places.taken.lock().by_address.get_mut(&self.address) {
            one.rested_at = one.rested_at.max(now) + self.places.interval * (VAIN_CONNECTIONS - 1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.total -= 1;
        if let Some(one) = taken.by_address.get_mut(&self.address) {
            one.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(total_max: usize, address_max: usize, rate: u32) -> Arc<Places> {
        let limits = Limits {
            connections_per_address_max: address_max,
            connection_rate_per_address_max: rate,
            ..Limits::default()
        };
        Arc::new(Places::new(total_max, &limits))
    }

    #[test]
    fn places_are_limited_in_total_and_by_address() {
        let (places, now) = (places(3, 2, 1), Instant::now());
        let [a, b, c] =
            ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = places.take(a, now).unwrap();
        let _second = places.take(c, now).expect("the same address in IPv6 clothes");
        assert_eq!(places.take(a, now).unwrap_err(), "connections-per-address-max");
        let _third = places.take(b, now).unwrap();
        assert_eq!(places.take(b, now).unwrap_err(), "connections-max");
        drop(first);
        assert!(places.take(b, now).is_ok());
    }

    #[test]
    fn address_that_connects_again_and_again_is_slowed_down() {
        let (places, start) = (places(9, 3, 10), Instant::now());
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert!(places.take(one, at(0)).is_ok(), "as many at once as may stay");
        }
        assert_eq!(places.take(one, at(99)).unwrap_err(), "connection-rate-per-address-max");
        assert!(places.take(other, at(99)).is_ok());
        assert!(places.take(one, at(100)).is_ok());
        assert_eq!(places.take(one, at(199)).unwrap_err(), "connection-rate-per-address-max");
        assert!(places.take(one, at(200)).is_ok());
    }

    #[test]
    fn address_that_connects_in_vain_is_slowed_down_more() {
        let (places, start) = (places(9, 3, 10), Instant::now());
        let one = "10.0.0.1".parse().unwrap();
        let at = |ms| start + Duration::from_millis(ms);
        places.take(one, start).unwrap().was_in_vain(start);
        assert_eq!(places.take(one, at(799)).unwrap_err(), "connection-rate-per-address-max");
        assert!(places.take(one, at(800)).is_ok());
    }

    #[test]
    fn addresses_that_are_gone_are_not_kept() {
        let (places, mut now) = (places(9, 3, 1_000), Instant::now());
        for number in 0..10 * u32::try_from(ADDRESSES_MIN).unwrap() {
            assert!(places.take(std::net::Ipv4Addr::from(number).into(), now).is_ok());
            now += Duration::from_millis(1);
        }
        assert!(places.taken.lock().by_address.len() <= 2 * ADDRESSES_MIN);
    }

    #[tokio::test]
    async fn turn_is_given_back_while_the_peer_is_silent() {
        let turns = Arc::new(Semaphore::new(1));
        let (_silent, peer) = tokio::sync::oneshot::channel::<()>();
        let held = turns.clone();
        let waiting = tokio::spawn(async move { in_turns(&held, peer, || {}).await });
        let never = || unreachable!("the turn is free");
        assert_eq!(in_turns(&turns, async { 7 }, never).await, 7);
        assert!(!waiting.is_finished());
        assert_eq!(turns.available_permits(), 1);
        waiting.abort();
    }

    #[tokio::test]
    async fn turn_that_is_not_free_is_waited_for_and_counted_once() {
        let turns = Arc::new(Semaphore::new(1));
        let (taken, waits) = (turns.clone().acquire_owned().await.unwrap(), std::cell::Cell::new(0));
        let work = in_turns(&turns, async { 7 }, || waits.set(waits.get() + 1));
        let give_back = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        assert_eq!(tokio::join!(work, give_back).0, 7);
        assert_eq!(waits.get(), 1);
    }

    #[test]
    fn host_cannot_multiply_within_its_prefix() {
        let [a, b] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let (places, now) = (places(9, 1, 1), Instant::now());
        let _one = places.take(a, now).unwrap();
        assert!(places.take(b, now).is_err());
    }
}

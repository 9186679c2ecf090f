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
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::identity::Identity;
use crate::{Gateway, Limits, Listeners, http};

/// Without traffic for so long, the kernel asks whether the peer is still there: a client may promise no keep-alive at all.
const PEER_PROBE_AFTER: Duration = Duration::from_secs(60);
/// The wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(100);

/// What newcomers share: places, and turns at the handshake.
pub(crate) struct Entrance {
    places: Arc<Places>,
    turns: Arc<Semaphore>,
}

impl Entrance {
    /// Starts empty.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Places::new(limits.connections_max, limits.connections_per_address_max)),
            turns: Arc::new(Semaphore::new(limits.handshakes_max)),
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
        let place = match gateway.entrance.places.take(peer.ip()) {
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
            match shaken {
                Some((Some(identity), stream)) if protocol == Protocol::Mqtt => {
                    connection::serve(gateway.clone(), identity, stream).await;
                }
                Some((identity, stream)) if protocol == Protocol::Http => {
                    Box::pin(http::serve(gateway.clone(), identity, stream)).await;
                }
                // Nobody gets through an MQTT handshake without a certificate.
                Some(_) | None => {}
            }
            gateway.metrics.connections.dec();
            drop(place);
        });
    }
}

/// TLS, with a time limit that includes the wait for turns; and who came, if there is a certificate.
async fn shake_hands(
    gateway: &Gateway,
    protocol: Protocol,
    socket: TcpStream,
) -> Option<(Option<Identity>, TlsStream<TcpStream>)> {
    let refused = |reason: &str| gateway.metrics.refusals.with_label_values(&[reason]).inc();
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
                refused("tls");
                tracing::debug!(%error, "TLS handshake failed");
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
            tracing::info!(%error, "certificate names no device");
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

/// Counts connections, in total and by address.
#[derive(Debug)]
struct Places {
    total_max: usize,
    address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Places {
    fn new(total_max: usize, address_max: usize) -> Self {
        Self { total_max, address_max, taken: Mutex::default() }
    }

    /// Takes a place, or says which limit is reached, as a metric label.
    fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, &'static str> {
        let address = subscriber(address);
        let mut taken = self.taken.lock();
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.total == self.total_max {
            return Err("connections-max");
        }
        if of_address == self.address_max {
            return Err("connections-per-address-max");
        }
        taken.total += 1;
        taken.by_address.insert(address, of_address + 1);
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

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_total_and_by_address() {
        let places = Arc::new(Places::new(3, 2));
        let [a, b, c] =
            ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = places.take(a).unwrap();
        let _second = places.take(c).expect("the same address in IPv6 clothes");
        assert_eq!(places.take(a).unwrap_err(), "connections-per-address-max");
        let _third = places.take(b).unwrap();
        assert_eq!(places.take(b).unwrap_err(), "connections-max");
        drop(first);
        assert!(places.take(b).is_ok());
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
        let places = Arc::new(Places::new(9, 1));
        let _one = places.take(a).unwrap();
        assert!(places.take(b).is_err());
    }
}

//! The sockets that devices connect to: limits first, then TLS, each connection in its own task. Knows no
//! protocol behind TLS.

pub(crate) mod admission;
pub(crate) mod handshake;
pub(crate) mod reload;
pub(crate) mod tls;

use crate::config::Limits;
use crate::device::account::Connected;
use crate::device::identity::Identity;
use crate::gateway::Gateway;
use crate::notices::Event;
use admission::{Admission, ConnectionPermit, Protocol};
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;
use tls::{Loaded, Tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

/// Time without traffic after which the kernel asks whether the peer is still there: a client may promise no
/// keep-alive at all.
const PEER_PROBE_AFTER: Duration = Duration::from_secs(60);
/// The wait after a failed accept: out of file descriptors, most likely.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(100);

/// Sockets that listen already.
#[derive(Debug)]
pub struct Listeners {
    /// For MQTT.
    pub mqtt: TcpListener,
    /// For HTTP, if it is wanted.
    pub http: Option<TcpListener>,
}

/// What newcomers pass.
pub(crate) struct Door {
    tls: Tls,
    admission: Admission,
}

impl Door {
    /// Opens it with these TLS files in force.
    pub(crate) fn new(loaded: Arc<Loaded>, limits: &Limits) -> Self {
        Self { tls: Tls::new(loaded), admission: Admission::new(limits) }
    }
}

/// A connection behind its handshake.
pub(crate) enum Arrived {
    /// On the socket for MQTT, where nobody gets through without a certificate.
    Mqtt { identity: Identity, connected: Connected, stream: TlsStream<TcpStream> },
    /// On the socket for HTTP, with a certificate or without.
    Http { certified: Option<(Identity, Connected)>, stream: TlsStream<TcpStream> },
}

/// Accepts connections on all sockets until the shutdown; each is then for `serve` to serve.
pub(crate) async fn open<F: Future<Output = ()> + Send + 'static>(
    listeners: &Listeners,
    door: &Arc<Door>,
    gateway: &Arc<Gateway>,
    tasks: &TaskTracker,
    serve: fn(Arc<Gateway>, Arrived) -> F,
) {
    let mqtt = accept(&listeners.mqtt, Protocol::Mqtt, door, gateway, tasks, serve);
    match &listeners.http {
        Some(http) => tokio::join!(mqtt, accept(http, Protocol::Http, door, gateway, tasks, serve)).0,
        None => mqtt.await,
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: &TcpListener,
    protocol: Protocol,
    door: &Arc<Door>,
    gateway: &Arc<Gateway>,
    tasks: &TaskTracker,
    serve: fn(Arc<Gateway>, Arrived) -> F,
) {
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
        let permit = match door.admission.limit(protocol).take(peer.ip(), Instant::now()) {
            Ok(permit) => permit,
            Err(full) => {
                gateway.metrics.refusals.with_label_values(&[full]).inc();
                continue;
            }
        };
        let (door, gateway) = (door.clone(), gateway.clone());
        tasks.spawn(async move {
            gateway.metrics.connections.inc();
            gateway.metrics.tls.handshakes.inc();
            // Boxed, so that a long session does not carry the room that its handshake needed.
            let shaken = Box::pin(shake_hands(&door, &gateway, protocol, socket)).await;
            gateway.metrics.tls.handshakes.dec();
            let arrived =
                shaken.and_then(|(identity, stream)| arrive(&gateway, protocol, identity, stream, &permit));
            if let Some(arrived) = arrived {
                serve(gateway.clone(), arrived).await;
            }
            gateway.metrics.connections.dec();
            drop(permit);
        });
    }
}

/// Says who has shaken hands; nobody when the device has as many connections as it may.
fn arrive(
    gateway: &Gateway,
    protocol: Protocol,
    identity: Option<Identity>,
    stream: TlsStream<TcpStream>,
    permit: &ConnectionPermit,
) -> Option<Arrived> {
    let certified = match identity {
        Some(identity) => match gateway.accounts.of(&identity.sensor_id).connect(Instant::now()) {
            Some(connected) => Some((identity, connected)),
            None => {
                gateway.metrics.refusals.with_label_values(&["connections-per-device-max"]).inc();
                permit.was_in_vain(Instant::now());
                return None;
            }
        },
        None => None,
    };
    match protocol {
        Protocol::Mqtt => {
            certified.map(|(identity, connected)| Arrived::Mqtt { identity, connected, stream })
        }
        Protocol::Http => Some(Arrived::Http { certified, stream }),
    }
}

/// Runs TLS, with a time limit that includes the wait for permits; tells who came, if there is a certificate.
async fn shake_hands(
    door: &Door,
    gateway: &Gateway,
    protocol: Protocol,
    socket: TcpStream,
) -> Option<(Option<Identity>, TlsStream<TcpStream>)> {
    let refused = |reason: &str| gateway.metrics.refusals.with_label_values(&[reason]).inc();
    let peer = socket.peer_addr().ok();
    tune(&socket);
    let settings = door.tls.present();
    let acceptor = TlsAcceptor::from(match protocol {
        Protocol::Mqtt => settings.mqtt.clone(),
        Protocol::Http => settings.http.clone(),
    });
    let waits = || gateway.metrics.tls.handshake_waits.inc();
    let handshake = with_permits(&door.admission.handshake_permits, acceptor.accept(socket), waits);
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

/// Polls `work` only while it has a permit, and gives the permit back while the peer is to speak: computing
/// is limited, and a silent peer keeps nobody waiting. `waits` is told of every permit that is not there at
/// once.
async fn with_permits<F: Future>(handshake_permits: &Arc<Semaphore>, work: F, waits: impl Fn()) -> F::Output {
    let mut work = pin!(work);
    let mut asked = None;
    poll_fn(|cx| {
        let is_first = asked.is_none();
        let turn = asked.get_or_insert_with(|| Box::pin(handshake_permits.clone().acquire_owned()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turn_is_given_back_while_the_peer_is_silent() {
        let handshake_permits = Arc::new(Semaphore::new(1));
        let (_silent, peer) = tokio::sync::oneshot::channel::<()>();
        let held = handshake_permits.clone();
        let waiting = tokio::spawn(async move { with_permits(&held, peer, || {}).await });
        let never = || unreachable!("the turn is free");
        assert_eq!(with_permits(&handshake_permits, async { 7 }, never).await, 7);
        assert!(!waiting.is_finished());
        assert_eq!(handshake_permits.available_permits(), 1);
        waiting.abort();
    }

    #[tokio::test]
    async fn turn_that_is_not_free_is_waited_for_and_counted_once() {
        let handshake_permits = Arc::new(Semaphore::new(1));
        let (taken, waits) =
            (handshake_permits.clone().acquire_owned().await.unwrap(), std::cell::Cell::new(0));
        let work = with_permits(&handshake_permits, async { 7 }, || waits.set(waits.get() + 1));
        let give_back = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        assert_eq!(tokio::join!(work, give_back).0, 7);
        assert_eq!(waits.get(), 1);
    }
}

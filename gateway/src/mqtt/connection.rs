//! One connection from its handshake to its end.

use crate::device::account::Connected;
use crate::device::connections::Link;
use crate::device::identity::Identity;
use crate::gateway::Gateway;
use crate::mqtt::packet::{
    Accepted, Connect, ConnectRefusal, Decoder, Encoder, Packet, Qos, Refusal, Version,
};
use crate::mqtt::session::{Admitted, End, Session};
use crate::mqtt::wire::Wire;
use crate::notices::Event;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// How long a client has to take the last words of the gateway.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Serves the holder of a verified certificate until its connection ends.
pub(crate) async fn serve<S>(gateway: Arc<Gateway>, identity: Identity, connected: Connected, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(stream);
    let mut decoder = Decoder::new(gateway.limits.packet_bytes_max);
    let read = timeout(gateway.limits.connect_time_max, read_connect(&mut wire, &mut decoder));
    let connect = tokio::select! {
        read = read => read.unwrap_or(Err(NoConnect::TooLate)),
        () = gateway.shutdown.cancelled() => Err(NoConnect::Gone),
    };
    let connect = match connect {
        Ok(connect) => connect,
        Err(no_connect) => {
            gateway.metrics.refusals.with_label_values(&[no_connect.label()]).inc();
            if let NoConnect::Refused(refusal) = no_connect {
                tracing::debug!(sensor_id = &*identity.sensor_id, %refusal, "CONNECT refused");
                answer(refusal, decoder.version(), &mut wire);
                close(&mut wire).await;
            }
            return;
        }
    };
    let encoder = Encoder::new(&connect);
    let link = Arc::new(Link::default());
    let (client_id, was_assigned) = client_id(&connect);
    let admitted =
        admit(&gateway, &connect, identity.clone(), link.clone(), connected).and_then(|admitted| {
            let entered = gateway.connections.enter(&identity, &client_id, &link);
            // A device that was denied between the look-up and the entry was told by nobody: look again.
            match gateway.registry.lookup(&identity) {
                Ok(_) => Ok((admitted, entered)),
                Err(denied) => Err((ConnectRefusal::NotAuthorized, denied.to_string())),
            }
        });
    let (admitted, entered) = match admitted {
        Ok(admitted) => admitted,
        Err((refusal, text)) => {
            gateway.metrics.refusals.with_label_values(&[refusal.label()]).inc();
            let (sensor_id, reason) = (&*identity.sensor_id, refusal.label());
            if let Some(others) = gateway.notices.due(Event::Connect, reason, Instant::now()) {
                tracing::info!(sensor_id, reason, text, others, "CONNECT refused");
            }
            encoder.refuse(refusal, &text, &mut wire.output);
            close(&mut wire).await;
            return;
        }
    };
    if gateway.shutdown.is_cancelled() {
        link.drain();
    }
    let accepted = Accepted {
        receive_max: gateway.limits.in_flight_max,
        packet_bytes_max: u32::try_from(gateway.limits.packet_bytes_max).unwrap_or(u32::MAX),
        assigned_client_id: was_assigned.then(|| client_id.to_string()),
        wanted_session: connect.session_expiry_s > 0,
        note: connect.will.map(|_| "connected; a will is not published here"),
    };
    if connect.will.is_some() {
        gateway.metrics.wills_dropped.inc();
    }
    drop(connect);
    encoder.accept(&accepted, &mut wire.output);
    drop((accepted, client_id));
    let mut session = Session::new(gateway, admitted, decoder, wire);
    let end = poll_fn(|cx| session.poll_run(cx)).await;
    drop(entered);
    finish(&mut session, &end).await;
}

/// Says good-bye, as far as the version has words for it and the socket still listens.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(session: &mut Session<S>, end: &End) {
    session.gateway.metrics.sessions_ended.with_label_values(&[end.label()]).inc();
    let sensor_id = &*session.identity.sensor_id;
    match end {
        End::Told(reason, text) => {
            let label = reason.label();
            if let Some(others) = session.gateway.notices.due(Event::SessionEnd, label, Instant::now()) {
                tracing::info!(sensor_id, reason = label, %text, others, "session ended by the gateway");
            }
            session.encoder.disconnect(*reason, text, &mut session.wire.output);
        }
        End::Left | End::Lost | End::Stalled => tracing::debug!(sensor_id, ?end, "session ended"),
    }
    if !matches!(end, End::Lost | End::Stalled) {
        // A client that does not take it in time is cut off; there is nobody to tell.
        let _ = timeout(CLOSE_TIME_MAX, poll_fn(|cx| session.poll_close(cx))).await;
    }
}

/// Why no CONNECT was read.
enum NoConnect {
    Gone,
    TooLate,
    Refused(Refusal),
}

impl NoConnect {
    fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::TooLate => "connect-timeout",
            Self::Refused(Refusal::NotMqtt) => "not-mqtt",
            Self::Refused(Refusal::Version(_)) => "version",
            Self::Refused(_) => "malformed",
        }
    }
}

async fn read_connect<S>(wire: &mut Wire<S>, decoder: &mut Decoder) -> Result<Box<Connect>, NoConnect>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match decoder.decode(&mut wire.input) {
            Ok(Some(Packet::Connect(connect))) => return Ok(connect),
            Ok(Some(_)) => return Err(NoConnect::Refused(Refusal::NotMqtt)),
            Err(refusal) => return Err(NoConnect::Refused(refusal)),
            Ok(None) => {}
        }
        match poll_fn(|cx| wire.poll_fill(cx)).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(NoConnect::Gone),
        }
    }
}

/// Answers what came instead of a CONNECT, if it was MQTT at all.
fn answer<S>(refusal: Refusal, version: Option<Version>, wire: &mut Wire<S>) {
    let (version, code) = match (refusal, version) {
        (Refusal::Version(level), _) => {
            let version = if level > 5 { Version::V5 } else { Version::V311 };
            (version, ConnectRefusal::Version)
        }
        (Refusal::Malformed(_), Some(version)) => (version, ConnectRefusal::Malformed),
        (Refusal::Protocol(_), Some(version)) => (version, ConnectRefusal::Protocol),
        (Refusal::TooLarge { .. }, Some(version)) => (version, ConnectRefusal::TooLarge),
        _ => return,
    };
    Encoder::bare(version).refuse(code, &refusal.to_string(), &mut wire.output);
}

/// Returns the client's own id, or one made for it: then it hears of it in MQTT 5, and in 3.1.1 needs no
/// name.
fn client_id(connect: &Connect) -> (Box<str>, bool) {
    match connect.client_id.as_str() {
        "" => (Uuid::new_v4().to_string().into(), true),
        own => (own.into(), false),
    }
}

/// Decides on a CONNECT: what it asks for, and whether the device may come in.
fn admit(
    gateway: &Gateway,
    connect: &Connect,
    identity: Identity,
    link: Arc<Link>,
    connected: Connected,
) -> Result<Admitted, (ConnectRefusal, String)> {
    let refuse = |refusal, text: &str| Err((refusal, text.to_owned()));
    let is_v5 = connect.version == Version::V5;
    if connect.has_authentication_method {
        return refuse(
            ConnectRefusal::AuthenticationMethod,
            "no authentication method is offered: the certificate is the authentication",
        );
    }
    if !is_v5 && connect.client_id.is_empty() && !connect.clean_start {
        return refuse(ConnectRefusal::ClientId, "a kept session needs a client id");
    }
    match connect.will {
        Some((Qos::ExactlyOnce, _)) if is_v5 => {
            return refuse(ConnectRefusal::Qos, "QoS 2 is not offered, for a will neither");
        }
        Some((_, true)) if is_v5 => {
            return refuse(ConnectRefusal::Retain, "messages are not retained, a will neither");
        }
        _ => {}
    }
    if gateway.shutdown.is_cancelled() {
        return refuse(ConnectRefusal::Unavailable, "the gateway stops: connect again");
    }
    // Read before the look-up: a change in between makes the session look again.
    let generation = gateway.registry.generation();
    match gateway.registry.lookup(&identity) {
        Ok(device) => Ok(Admitted {
            identity,
            device,
            generation,
            encoder: Encoder::new(connect),
            keep_alive_s: connect.keep_alive_s,
            link,
            connected,
        }),
        Err(denied) => refuse(ConnectRefusal::NotAuthorized, &denied.to_string()),
    }
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) {
    let closing = poll_fn(|cx| match wire.poll_send(cx) {
        Poll::Ready(Ok(())) => wire.poll_end(cx),
        other => other,
    });
    // A client that does not take it in time is cut off; there is nobody to tell.
    let _ = timeout(CLOSE_TIME_MAX, closing).await;
}

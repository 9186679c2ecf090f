//! `POST /api/v1/readings`, over HTTPS, for devices that do not speak MQTT.
//!
//! The body is one JSON object or an array of them, each read as codec `json` reads a payload, whatever codec
//! the device is registered with. All of them are durable before the 202, or nothing is said; one that cannot
//! be read refuses all, because here the caller is there to hear of it: there is no dead letter. A body that
//! is sent again after any other answer is the same event, if it has a `timestamp`; an `eventId` alone does
//! not make it so, because the row's key holds the time (ADR 0004).
//!
//! A device is known by its client certificate or, without one, by a token of role `device` whose `sub` is
//! its sensor id. A handshake needs neither, so a stranger's connection ends with its first answer, or after
//! [`STRANGER_TIME_MAX`].

mod body;
mod patient;
mod peer;
mod problem;
mod request;

use crate::device::account::{self, Connected};
use crate::device::identity::Identity;
use crate::gateway::Gateway;
use crate::ingest::{self, Encoded, NotStored};
use body::{Body, Received};
use bytes::Bytes;
use chassis::problem::Problem;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use patient::Patient;
use peer::{Peer, Sender};
use schema::Timestamp;
use serde_json::json;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::server::TlsStream;
use uuid::Uuid;

const PATH: &str = "/api/v1/readings";
/// Longest wait for a whole request head on a free connection; a connection without any request is closed
/// then.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of the largest head: what a token and a few headers take, twice over. A connection has a buffer of
/// this size at most.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Life of a connection without any request of a registered device: the time for a head, and for the answer
/// to be taken.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(40);
/// Longest time in which a client takes nothing of its answer, as in an MQTT session.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// When the budget or the producer's queue is full, it is most likely not a second later.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// Kafka that is away stays away for longer.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// Serves one connection until it ends or the gateway stops; the request in flight is answered first.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    certified: Option<(Identity, Connected)>,
    stream: TlsStream<TcpStream>,
) {
    let peer = Arc::new(Peer::new(certified));
    let service = service_fn(|request| {
        let (gateway, peer) = (gateway.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(&gateway, &peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, STALL_TIME_MAX)), service);
    let mut connection = pin!(connection);
    let stranger_leaves = async {
        sleep(STRANGER_TIME_MAX).await;
        if peer.is_known() {
            std::future::pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stranger_leaves => {
            gateway.metrics.refusals.with_label_values(&["stranger"]).inc();
            return;
        }
        () = gateway.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

async fn answer(gateway: &Gateway, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, incoming) = request.into_parts();
    let mut body = Body::new(&head, incoming);
    let sender = peer.authenticate(gateway, &head).await;
    let account = sender.as_ref().ok().map(|sender| sender.account.clone());
    // A stranger on a wrong way hears of the way: there is nothing to hide.
    let outcome = match check_route(&head).and(sender) {
        Ok(sender) => accept(gateway, &sender, &head, &mut body).await,
        Err(problem) => Err(problem),
    };
    let mut response = match outcome {
        Ok(readings) => {
            let body = json!({ "requestId": Uuid::new_v4(), "readings": readings }).to_string();
            let response = Response::builder().status(StatusCode::ACCEPTED);
            response.header(CONTENT_TYPE, "application/json").body(Full::from(body)).unwrap_or_default()
        }
        Err(problem) => {
            // The body already timed out: do not wait for the rest.
            if problem.status() != StatusCode::REQUEST_TIMEOUT.as_u16() {
                body.let_by(gateway, account);
            }
            problem::response(&problem)
        }
    };
    if !peer.is_known() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    gateway.metrics.http_requests.with_label_values(&[response.status().as_str()]).inc();
    response
}

/// Makes the readings of a request durable, and counts them.
async fn accept(gateway: &Gateway, sender: &Sender, head: &Parts, body: &mut Body) -> Result<usize, Problem> {
    check_type(head)?;
    if !gateway.producer.is_up() {
        return Err(Problem::busy("Kafka is away; nothing was stored", RETRY_LATER));
    }
    let Sender { sensor_id, device, account } = sender;
    let too_fast = |wait| Problem::too_many("the device publishes faster than it may", wait);
    // Before any of the body is asked for.
    account.wait(Instant::now()).map_or(Ok(()), |wait| Err(too_fast(wait)))?;
    let Received { bytes, mut room } = body.read(gateway, account).await?;
    let sender = ingest::Sender { sensor_id, device, received_at: Timestamp::now() };
    let Encoded { records, row_bytes } =
        request::decode(&bytes, &sender, &gateway.timestamps).inspect_err(|_| {
            let _ = account.charge(account::cost(1, bytes.len()), Instant::now());
        })?;
    let count = records.len();
    let cost = account::cost_of_rows(count, bytes.len(), row_bytes);
    drop(bytes);
    account.charge_now(cost, Instant::now()).map_err(too_fast)?;
    // The records take the place of the body.
    body::grow(gateway, account, &mut room, records.iter().map(ingest::in_flight_bytes).sum())?;
    match ingest::store_all(&gateway.producer, sensor_id, records, room).await {
        Ok(()) => Ok(count),
        Err(NotStored) => Err(Problem::busy("not everything was stored: send it again", RETRY_LATER)),
    }
}

fn check_route(head: &Parts) -> Result<(), Problem> {
    match (head.uri.path(), &head.method) {
        (PATH, &Method::POST) => Ok(()),
        (PATH, _) => {
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "readings are sent with POST");
            Err(problem.header("allow", "POST"))
        }
        _ => Err(Problem::new(StatusCode::NOT_FOUND, format!("there is only {PATH}"))),
    }
}

fn check_type(head: &Parts) -> Result<(), Problem> {
    let kind = head.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        None | Some("application/json") => Ok(()),
        Some(_) => Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")),
    }
}

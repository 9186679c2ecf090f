//! `POST /api/v1/readings`, over HTTPS, for devices that do not speak MQTT.
//!
//! The body is one JSON object or an array of them, each read as codec `json` reads a payload, whatever codec the device is
//! registered with. All of them are durable before the 202, or nothing is said; one that cannot be read refuses all, because
//! here the caller is there to hear of it: there is no dead letter. What is sent again after any other answer is the same
//! event, if it has a `timestamp` or an `eventId`.
//!
//! A device is known by its client certificate or, without one, by a token of role `device` whose `sub` is its sensor id.

mod problem;
mod request;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use chassis::auth::Role;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use schema::Timestamp;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use uuid::Uuid;

use crate::Gateway;
use crate::identity::Identity;
use crate::publish::{NotTaken, Record};
use crate::registry::{Denied, Device};
use crate::window::{Outcome, Promise, RECORD_OVERHEAD_BYTES, Window};

use problem::Problem;

const PATH: &str = "/api/v1/readings";
/// A request's head must be whole so soon after its connection is free for it, and a connection without any request is closed
/// then.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// A body may take so long, and one second more for every [`BODY_BYTES_PER_S_MIN`], as an MQTT packet may.
const BODY_TIME_BASE: Duration = Duration::from_secs(10);
/// A device on the slowest line is faster than this.
const BODY_BYTES_PER_S_MIN: usize = 8 * 1024;
/// When the budget or the producer's queue is full, it is most likely not a second later.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// Kafka that is away stays away for longer.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// Serves one connection until it ends or the gateway stops; the request in flight is answered first.
pub(crate) async fn serve(gateway: Arc<Gateway>, identity: Option<Identity>, stream: TlsStream<TcpStream>) {
    let service = service_fn(|request| {
        let (gateway, identity) = (gateway.clone(), identity.clone());
        async move { Ok::<_, Infallible>(answer(&gateway, identity.as_ref(), request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = gateway.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

async fn answer(
    gateway: &Gateway,
    identity: Option<&Identity>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let response = match accept(gateway, identity, &head, &mut body).await {
        Ok(readings) => {
            let body = json!({ "requestId": Uuid::new_v4(), "readings": readings }).to_string();
            let response = Response::builder().status(StatusCode::ACCEPTED);
            response.header(CONTENT_TYPE, "application/json").body(Full::from(body)).unwrap_or_default()
        }
        Err(problem) => {
            // Who was too slow already is not waited for once more.
            if problem.status() != StatusCode::REQUEST_TIMEOUT {
                discard(gateway, body).await;
            }
            problem.into_response()
        }
    };
    gateway.metrics.http_requests.with_label_values(&[response.status().as_str()]).inc();
    response
}

/// Makes the readings of a request durable, and counts them.
async fn accept(
    gateway: &Gateway,
    identity: Option<&Identity>,
    head: &Parts,
    body: &mut Incoming,
) -> Result<usize, Problem> {
    check_route(head)?;
    let (sensor_id, device) = authenticate(gateway, identity, head)?;
    check_type(head)?;
    if !gateway.publisher.is_up() {
        return Err(Problem::busy("Kafka is away; nothing was stored", RETRY_LATER));
    }
    let (body, _room) = read_body(gateway, body).await?;
    let sender = request::Sender { sensor_id: &sensor_id, device: &device, received_at: Timestamp::now() };
    let events = request::decode(&body, &sender, &gateway.timestamps)?;
    drop(body);
    gateway
        .rates
        .of(&sensor_id)
        .take_now(events.len(), Instant::now())
        .map_err(|wait| Problem::too_many("the device publishes faster than it may", wait))?;
    publish(gateway, &sensor_id, events).await
}

fn check_route(head: &Parts) -> Result<(), Problem> {
    match (head.uri.path(), &head.method) {
        (PATH, &Method::POST) => Ok(()),
        (PATH, _) => {
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "readings are sent with POST");
            Err(problem.with(ALLOW, "POST"))
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

/// Says whose readings these are. Every request is asked anew, so that a device which was suspended since is refused.
fn authenticate(
    gateway: &Gateway,
    identity: Option<&Identity>,
    head: &Parts,
) -> Result<(Arc<str>, Arc<Device>), Problem> {
    let denied = |denied: Denied| Problem::new(StatusCode::FORBIDDEN, denied.to_string());
    if let Some(identity) = identity {
        let device = gateway.registry.lookup(identity).map_err(denied)?;
        return Ok((identity.sensor_id.clone(), device));
    }
    let verifier = gateway
        .tokens
        .as_ref()
        .ok_or_else(|| Problem::unauthorized("a device is known by its client certificate here"))?;
    let token = head
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or_else(|| {
            Problem::unauthorized("send a client certificate, or a token: Authorization: Bearer …")
        })?;
    let caller = verifier.verify(token).map_err(|problem| Problem::unauthorized(problem.detail))?;
    // An admin has every role, but its name is no sensor's: the registry has the last word.
    caller.require(&[Role::Device]).map_err(|problem| Problem::new(StatusCode::FORBIDDEN, problem.detail))?;
    let device = gateway.registry.active(&caller.subject).map_err(denied)?;
    Ok((caller.subject.into(), device))
}

/// Reads the body into a share of the budget of all connections, which is held as long as the body is.
async fn read_body(gateway: &Gateway, body: &mut Incoming) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
    let bytes_max = gateway.limits.http_body_bytes_max;
    let too_large = || {
        let detail = format!("the body is larger than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let announced =
        body.size_hint().upper().map_or(bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced > bytes_max {
        return Err(too_large());
    }
    let room = gateway.budget.try_take(announced).ok_or_else(|| busy(gateway))?;
    let time_max = BODY_TIME_BASE + Duration::from_secs((announced / BODY_BYTES_PER_S_MIN) as u64);
    match timeout(time_max, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok((body.to_bytes(), room)),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body ends early")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

/// Reads on after a refusal and keeps nothing: a client that is still writing would lose the answer with its connection.
async fn discard(gateway: &Gateway, body: Incoming) {
    let mut body = Limited::new(body, gateway.limits.http_body_bytes_max);
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // Who is too slow for this hears of the end alone.
    let _ = timeout(BODY_TIME_BASE, rest).await;
}

fn busy(gateway: &Gateway) -> Problem {
    gateway.metrics.read_pauses.with_label_values(&["budget"]).inc();
    Problem::busy("as much is in flight as may be; nothing was stored", RETRY_SOON)
}

/// Hands all events on and waits until every one of them is durable.
async fn publish(gateway: &Gateway, sensor_id: &str, events: Vec<Vec<u8>>) -> Result<usize, Problem> {
    let not_stored = || Problem::busy("not everything was stored: send it again", RETRY_LATER);
    let count = events.len();
    let bytes = events.iter().map(|event| event.len() + RECORD_OVERHEAD_BYTES).sum();
    let mut room = gateway.budget.try_take(bytes).ok_or_else(|| busy(gateway))?;
    let window = Arc::new(Window::default());
    for event in events {
        let bytes = event.len() + RECORD_OVERHEAD_BYTES;
        let share = room.split(bytes).ok_or_else(|| busy(gateway))?;
        let slot = window.open(Promise::Part, bytes, share);
        match gateway.publisher.produce(sensor_id, &Record::Reading(event), slot) {
            Ok(()) => {}
            Err(NotTaken::Full(_)) => {
                gateway.metrics.read_pauses.with_label_values(&["queue"]).inc();
                return Err(not_stored());
            }
            Err(NotTaken::Broken) => return Err(not_stored()),
        }
    }
    let (mut stored, mut failed) = (0, 0);
    // Every slot is completed: the producer gives up a record that it cannot deliver.
    poll_fn(|cx| {
        window.watch(cx.waker());
        window.take_done(|done| match done.outcome {
            Outcome::Stored => stored += 1,
            Outcome::NotAuthorized | Outcome::Failed => failed += 1,
        });
        if stored + failed == count { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if failed == 0 { Ok(count) } else { Err(not_stored()) }
}

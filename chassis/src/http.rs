//! REST plumbing: RFC 9457 problems, a JSON body that names its bad field, request metrics, a server that drains.

use crate::Chassis;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use anyhow::Context;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

/// Longest request body, in bytes; the largest of our resources is a certificate of a few KiB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Requests in flight get this long at shutdown.
const DRAIN_S_MAX: u64 = 10;

/// Names one bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name as the client wrote it, dotted where it is nested; a query parameter or path segment by its name.
    pub field: String,
    /// What it must be.
    pub detail: String,
}

/// An error as `application/problem+json`.
///
/// Source: RFC 9457. It carries no text of the database or of a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// What went wrong, for the caller.
    pub detail: String,
    /// Every bad field, when fields are the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

impl Problem {
    /// Makes a problem of that status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    /// 400 that names every bad field.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let names: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("bad value for {}", names.join(", "));
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    /// 400 that names one bad field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 503 with `Retry-After`, when a dependency is away. The cause is logged here, once, and not shown.
    pub fn unavailable(cause: &dyn fmt::Display) -> Self {
        tracing::warn!(%cause, "a dependency is away");
        Self {
            retry_after_s: Some(2),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "a dependency is away; try again")
        }
    }

    /// 500. The cause is logged here, once, and not shown.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected error")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status_code());
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        let body = serde_json::to_vec(self).unwrap_or_default();
        response.content_type("application/problem+json").body(body)
    }
}

#[cfg(feature = "postgres")]
impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::unavailable(&error)
    }
}

#[cfg(feature = "postgres")]
impl From<tokio_postgres::Error> for Problem {
    /// A closed connection or a statement cut short by a timeout may work again; anything else is our mistake.
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        match error.code() {
            None
            | Some(&SqlState::QUERY_CANCELED | &SqlState::ADMIN_SHUTDOWN | &SqlState::TOO_MANY_CONNECTIONS) => {
                Self::unavailable(&error)
            }
            Some(_) => Self::internal(&error),
        }
    }
}

/// A JSON request body; what cannot be read is a 400 that names the field.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Body<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bytes = web::Bytes::from_request(request, payload);
        Box::pin(async move {
            let bytes = bytes.await.map_err(|_| {
                Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("body is over {BODY_BYTES_MAX} bytes or broken off"),
                )
            })?;
            let mut reader = serde_json::Deserializer::from_slice(&bytes);
            let value =
                serde_path_to_error::deserialize(&mut reader).map_err(|error| body_problem(&error))?;
            reader.end().map_err(|_| Problem::field("body", "must be one JSON document"))?;
            Ok(Self(value))
        })
    }
}

/// Names the field of a serde error: its path, or for a missing or unknown field the name in its message.
fn body_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let message = error.inner().to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let path = error.path().to_string();
    let quoted = message.split('`').nth(1).filter(|_| message.contains("field `"));
    let field = match (path.as_str(), quoted) {
        (".", Some(name)) => name.to_owned(),
        (".", None) => "body".to_owned(),
        (path, Some(name)) if message.starts_with("missing") => format!("{path}.{name}"),
        (path, _) => path.to_owned(),
    };
    Problem::field(field, message)
}

/// Reads a query string into `T`; what cannot be read is a 400.
///
/// # Errors
/// A problem that names what is wrong.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| Problem::field("query", error.to_string()))
}

#[derive(Clone)]
struct RequestMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl RequestMetrics {
    fn register(chassis: &Chassis) -> anyhow::Result<Self> {
        let labels = ["method", "route", "status"];
        let requests = IntCounterVec::new(Opts::new("http_requests_total", "Requests answered."), &labels)?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("http_request_duration_seconds", "Time from request to answer."),
            &labels[..2],
        )?;
        chassis.registry.register(Box::new(requests.clone()))?;
        chassis.registry.register(Box::new(seconds.clone()))?;
        Ok(Self { requests, seconds })
    }
}

async fn measure(
    metrics: web::Data<RequestMetrics>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let method = request.method().to_string();
    // The pattern, not the path: a path holds sensor ids, and labels must stay few.
    let route = request.match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let outcome = next.call(request).await;
    let status = match &outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    metrics.requests.with_label_values(&[method.as_str(), &route, status.as_str()]).inc();
    metrics.seconds.with_label_values(&[method.as_str(), &route]).observe(started.elapsed().as_secs_f64());
    outcome
}

/// Serves the routes that `configure` adds, until shutdown; requests in flight are finished first.
///
/// # Errors
/// The address cannot be bound (stop).
pub async fn serve(
    chassis: &Chassis,
    listen: SocketAddr,
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let metrics = web::Data::new(RequestMetrics::register(chassis)?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(metrics.clone())
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .wrap(from_fn(measure))
            .configure(configure.clone())
            .default_service(web::to(|| async {
                Err::<HttpResponse, _>(Problem::not_found("no such resource"))
            }))
    })
    .workers(2)
    .disable_signals()
    .shutdown_timeout(DRAIN_S_MAX)
    .bind(listen)
    .with_context(|| format!("bind the REST server to {listen}"))?
    .run();
    let handle = server.handle();
    let shutdown = chassis.shutdown.clone();
    tracing::info!(%listen, "serving REST");
    tokio::spawn(async move {
        shutdown.cancelled().await;
        handle.stop(true).await;
    });
    server.await.context("serve REST")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its type matters")]
        max: f64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its type matters")]
        limits: Inner,
    }

    fn field_of(json: &str) -> String {
        let error =
            serde_path_to_error::deserialize::<_, Outer>(&mut serde_json::Deserializer::from_str(json))
                .unwrap_err();
        body_problem(&error).errors[0].field.clone()
    }

    #[test]
    fn a_bad_body_names_its_field() {
        assert_eq!(field_of(r#"{"limits":{"max":"hot"}}"#), "limits.max");
        assert_eq!(field_of(r#"{"limits":{}}"#), "limits.max");
        assert_eq!(field_of(r"{}"), "limits");
        assert_eq!(field_of(r#"{"limit":1}"#), "limit");
        assert_eq!(field_of(r#"{"limits":{"max":1,"mux":2}}"#), "limits.mux");
        assert_eq!(field_of("nonsense"), "body");
    }
}

//! REST plumbing: RFC 9457 problems, fields that are all checked before any is refused, conditional requests, request
//! metrics, a server that drains.

mod change;
mod etag;
mod fields;
mod json;
mod manners;
mod settings;
mod tls;

pub use change::{Change, Rules};
pub use etag::{check_version, if_match, is_held, representation, version_tag};
pub use fields::{Fields, Listing, Page, check_prose};
pub use settings::Settings;

use crate::admin::head_as_get;
use crate::{Chassis, auth};
use actix_web::body::BoxBody;
use actix_web::http::{StatusCode, header};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, HttpServer, ResponseError, web};
use anyhow::Context;
use manners::{RequestMetrics, explain, measure};
use serde::Serialize;
use std::fmt;

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
    /// `WWW-Authenticate`, when the token is the reason.
    #[serde(skip)]
    challenge: Option<&'static str>,
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
            challenge: None,
        }
    }

    /// 400 that names every bad field.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let mut names: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        names.dedup();
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

/// 412: the caller has seen another version than the one that stands.
fn stale() -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED, "the resource has another version: read it again")
}

impl From<auth::Error> for Problem {
    fn from(error: auth::Error) -> Self {
        let status = match error {
            auth::Error::Absent | auth::Error::Invalid(_) => StatusCode::UNAUTHORIZED,
            auth::Error::Forbidden(_) => StatusCode::FORBIDDEN,
            auth::Error::Unavailable => return Self::unavailable(&error),
        };
        Self { challenge: Some(error.challenge()), ..Self::new(status, error.to_string()) }
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
        if let Some(challenge) = self.challenge {
            response.insert_header((header::WWW_AUTHENTICATE, challenge));
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
    /// What may work again is 503: a closed connection, and the SQLSTATE classes connection, rollback, resources,
    /// operator intervention (timeouts and shutdown are there) and read-only (a failover is under way). Anything else
    /// is our mistake.
    fn from(error: tokio_postgres::Error) -> Self {
        let transient = |code: &str| {
            ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "25006"
        };
        match error.code() {
            Some(state) if !transient(state.code()) => Self::internal(&error),
            _ => Self::unavailable(&error),
        }
    }
}

/// Serves the routes that `configure` adds, until shutdown; requests in flight are finished first.
///
/// # Errors
/// The address cannot be bound, or the certificate cannot be used (stop).
pub async fn serve(
    chassis: &Chassis,
    settings: &Settings,
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let metrics = web::Data::new(RequestMetrics::register(chassis)?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(metrics.clone())
            .wrap(from_fn(head_as_get))
            .wrap(from_fn(explain))
            .wrap(from_fn(measure))
            .configure(configure.clone())
            .default_service(web::to(|| async {
                Err::<HttpResponse, _>(Problem::not_found("no such resource"))
            }))
    })
    .workers(2)
    .disable_signals()
    .shutdown_timeout(DRAIN_S_MAX);
    let listen = settings.listen;
    let server = match &settings.tls {
        Some(files) => server.bind_rustls_0_23(listen, tls::Certificate::open(files, chassis)?.config()?),
        None => server.bind(listen),
    };
    let server = server.with_context(|| format!("bind the REST server to {listen}"))?.run();
    let handle = server.handle();
    let shutdown = chassis.shutdown.clone();
    tracing::info!(%listen, tls = settings.tls.is_some(), "serving REST");
    tokio::spawn(async move {
        shutdown.cancelled().await;
        handle.stop(true).await;
    });
    server.await.context("serve REST")
}

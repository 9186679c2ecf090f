//! REST plumbing: RFC 9457 problems, fields that are all checked before any is refused, conditional requests,
//! request metrics, a server that drains.

mod accept;
mod caller;
mod change;
mod etag;
mod fields;
mod json;
mod keyset;
mod manners;
mod settings;
mod tls;

pub use crate::problem::{FieldError, Problem};
pub use accept::{acceptable, preferred};
pub use change::{Change, Rules, media_type};
pub use etag::{check_version, if_match, is_held, representation, version_tag};
pub use fields::{Fields, Listing, Page, check_prose, read_array, read_body};
pub use keyset::{KeysetListing, KeysetPage, cursor};
pub use settings::Settings;

use crate::admin::head_as_get;
use crate::problem::MEDIA_TYPE;
use crate::{Chassis, auth};
use accept::negotiate;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, HttpServer, ResponseError, web};
use anyhow::Context;
use manners::{RequestMetrics, explain, measure};

/// Longest request body, in bytes; the largest of our resources is a certificate of a few KiB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Time that requests in flight get at shutdown, in seconds.
const DRAIN_S_MAX: u64 = 10;

/// Makes the 412 of a caller that has seen another version than the one that stands.
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
        Self::new(status, error.to_string()).header("www-authenticate", error.challenge())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status_code());
        for header in self.headers() {
            response.insert_header(header);
        }
        response.content_type(MEDIA_TYPE).body(self.body())
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
    /// Makes a 503 of a failure that may pass: a closed connection, and the SQLSTATE classes connection,
    /// rollback, resources, operator intervention (timeouts and shutdown are there) and read-only (a failover
    /// is under way). Anything else is our mistake.
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

/// Lists the metrics of a REST server, which documents are held against.
pub fn metric_names() -> Vec<String> {
    [RequestMetrics::names(), tls::Metrics::names()].concat()
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
    let metrics = web::Data::new(RequestMetrics::register(&chassis.registry)?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(metrics.clone())
            .wrap(from_fn(head_as_get))
            .wrap(from_fn(negotiate))
            .wrap(from_fn(explain))
            .wrap(from_fn(measure))
            .configure(configure.clone())
            .default_service(web::to(|| async {
                Err::<HttpResponse, _>(Problem::not_found("no such resource"))
            }))
    })
    .workers(2)
    // A caller that has closed its connection wants no answer: its handler is dropped.
    .h1_allow_half_closed(false)
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

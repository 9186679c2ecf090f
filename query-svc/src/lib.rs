//! Tables `sensor_reading_hourly_aggregates`, `readings_ingestion`, `sensor_latest` and `alert_episodes` →
//! REST, for analysts.
//!
//! In:         HTTP requests with a JWT: role analyst or operator; the read model, which command-svc writes;
//!             `alert_acknowledgements` and `silences`, which threshold-svc writes.
//! Out:        nothing but answers; the service keeps no state that it could lose.
//! Guarantee:  an answer about hours, and a page of aggregates, is at most as old as `CACHE_OPEN_MS_MAX` (a
//!             range that reaches into the present hour) or `CACHE_CLOSED_MS_MAX` (a range that is over),
//!             plus the time of its statement; what a client may keep counts into that age. Every other
//!             answer is read when it is asked for.
//!             Aggregates of hours and what is wider never touch the raw table; raw readings, and minutes
//!             made of them, are found by sensor within a bounded range.
//! On failure: a bad request → 400 that names every bad parameter. Database away or statement too long → 503
//!             with `Retry-After`, and not ready while it is away; a failure is never cached. A stream that
//!             fails in its middle breaks off; the statement of a client that leaves is cancelled.

mod cache;
mod config;
mod fill;
mod format;
mod metrics;
mod query;
mod routes;
mod store;
mod stream;

pub use config::{Cache, Config};

use actix_web::web;
use anyhow::Context;
use chassis::{Chassis, rest};
use metrics::Metrics;

/// Serves until shutdown.
///
/// # Errors
/// A setting cannot be used, the schema is of another release, or the address cannot be bound (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let cache = web::Data::new(cache::AnswerCache::new(config.cache, metrics));
    let streams = web::Data::new(stream::Streams::new(config.rest.database.clone()));
    rest::run(&config.rest, schema::migrations::VERSIONS, &chassis, move |app| {
        app.app_data(cache.clone()).app_data(streams.clone()).configure(routes::configure);
    })
    .await
}

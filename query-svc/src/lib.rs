//! Tables `sensor_reading_hourly_aggregates`, `sensor_latest` and `alert_episodes` → REST, for analysts.
//!
//! In:         HTTP requests with a JWT: role analyst or operator; the read model, which command-svc writes;
//!             `alert_acknowledgements` and `silences`, which threshold-svc writes.
//! Out:        nothing but answers; the service keeps no state that it could lose.
//! Guarantee:  an answer about hours is at most as old as `CACHE_OPEN_MS_MAX` (a range that reaches into the
//!             present hour) or `CACHE_CLOSED_MS_MAX` (a range that is over), plus the time of its statement;
//!             what a client may keep counts into that age. Every other answer is read when it is asked for.
//!             Aggregates never touch the raw table.
//! On failure: a bad request → 400 that names every bad parameter. Database away or statement too long → 503
//!             with `Retry-After`, and not ready while it is away; a failure is never cached.

mod cache;
mod config;
mod metrics;
mod query;
mod routes;
mod store;

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
    let cache = web::Data::new(cache::HoursCache::new(config.cache, metrics));
    rest::run(&config.rest, schema::migrations::VERSIONS, &chassis, move |app| {
        app.app_data(cache.clone()).configure(routes::configure);
    })
    .await
}

//! REST `/api/v1/thresholds` → table `sensor_thresholds`, which alerting-svc follows by change data capture.
//!
//! In:         HTTP requests with a JWT: role operator; analyst may read.
//! Out:        table `sensor_thresholds`; nothing else writes it, but the database deletes thresholds with their device.
//! Guarantee:  an answer of 2xx is committed. A change with `If-Match` is made to that version or not at all; without
//!             it the last write wins. What a change does not name stays. Versions grow, also over deletion and
//!             creation. A creation with an id of the caller's own can be repeated. (ADR 0015)
//! On failure: a bad request → 400 that names every bad field. Database away → 503 with `Retry-After`, not ready;
//!             nothing is tried twice on the caller's behalf.

mod config;
mod routes;
mod store;
mod threshold;

pub use config::Config;

use actix_web::web;
use anyhow::Context;
use chassis::auth::Verifier;
use chassis::{Chassis, http, postgres};

/// Serves until shutdown.
///
/// # Errors
/// A setting cannot be used, the schema is of another release, or the address cannot be bound (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let latch = chassis.readiness.latch("postgres");
    let verifier = Verifier::open(&config.auth, &chassis).context("prepare to verify tokens")?;
    let pool = config.database.pool().context("prepare the database pool")?;
    if !postgres::wait_for_version(&pool, schema::migrations::VERSIONS, &chassis.shutdown).await? {
        return Ok(());
    }
    let watch = tokio::spawn(postgres::watch(pool.clone(), latch, chassis.shutdown.clone()));

    let (pool, verifier) = (web::Data::new(pool), web::Data::new(verifier));
    let served = http::serve(&chassis, &config.http, move |app| {
        app.app_data(pool.clone()).app_data(verifier.clone()).configure(routes::configure);
    })
    .await;
    watch.abort();
    served
}

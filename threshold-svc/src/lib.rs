//! REST for what operators say of alerts: thresholds, silences, acknowledgements → their tables, of which
//! alerting-svc follows the first two by change data capture.
//!
//! In:         HTTP requests with a JWT: role operator; analyst may read. Table `readings_ingestion`, which
//!             command-svc writes, for backtests.
//! Out:        tables `sensor_thresholds`, `sensor_threshold_versions`, `silences` and
//!             `alert_acknowledgements`; nothing else writes them, but the database deletes thresholds with
//!             their device.
//! Guarantee:  an answer of 2xx is committed. A change with `If-Match` is made to that version or not at all;
//!             without it the last write wins. What a change does not name stays. Versions grow, also over
//!             deletion and creation. A creation with an id of the caller's own can be repeated. (ADR 0015)
//! On failure: a bad request → 400 that names every bad field. Database away → 503 with `Retry-After`, not
//!             ready; nothing is tried twice on the caller's behalf.

mod acknowledgements;
mod backtest;
mod bulk;
mod metrics;
mod routes;
mod silences;
mod store;
mod threshold;
mod versions;
mod warnings;

pub use chassis::rest::Settings as Config;

use actix_web::web::Data;
use anyhow::Context as _;
use backtest::Backtests;
use chassis::{Chassis, rest};
use metrics::Metrics;

/// Lists the names of the service's own metrics, which documents are held against.
pub fn metric_names() -> Vec<String> {
    Metrics::names()
}

/// Serves until shutdown.
///
/// # Errors
/// A setting cannot be used, the schema is of another release, or the address cannot be bound (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let backtests = Data::new(Backtests::new(metrics));
    rest::run(&config, schema::migrations::VERSIONS, &chassis, move |app| {
        app.app_data(backtests.clone()).configure(routes::configure);
    })
    .await
}

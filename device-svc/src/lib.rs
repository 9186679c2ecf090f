//! REST `/api/v1/devices` → table `devices`, which the gateway follows by change data capture.
//!
//! In:         HTTP requests with a JWT: role operator; analyst may read.
//! Out:        table `devices`; nothing else writes it.
//! Guarantee:  an answer of 2xx is committed. A change with `If-Match` is made to that version or not at all;
//!             without it the last write wins. Fields that a change does not name stay. Versions grow, also
//!             over deletion and registration. A retired device stays retired and stays there. (ADR 0015)
//! On failure: a bad request → 400 that names every bad field. Database away → 503 with `Retry-After`, not
//!             ready; nothing is tried twice on the caller's behalf.

mod device;
mod routes;
mod store;

pub use chassis::rest::Settings as Config;

use chassis::{Chassis, rest};

/// Serves until shutdown.
///
/// # Errors
/// A setting cannot be used, the schema is of another release, or the address cannot be bound (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    rest::run(&config, schema::migrations::VERSIONS, &chassis, routes::configure).await
}

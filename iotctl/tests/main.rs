//! Real servers, real processes.

#![allow(clippy::unwrap_used, reason = "a helper of tests panics as a test does")]

mod alerts;
mod database;
mod folders;
mod servers;
mod thresholds;
mod topics;
mod verify;

use iotctl::servers::postgres::{Postgres, Settings};
use std::path::Path;

/// Starts a PostgreSQL server of the test's own, since roles belong to a whole server.
async fn own_postgres(folder: &Path) -> (Postgres, u16) {
    let port = iotctl::state::free_port().unwrap();
    let settings = Settings {
        folder: folder.join("postgres"),
        log: folder.join("postgres.log"),
        port,
        durable: false,
        further: vec![],
    };
    (Postgres::start(&settings).await.unwrap(), port)
}

//! The start of every REST service over the database: tokens that are verified, a pool, a latch that follows
//! the database, a server that drains.

use crate::auth::Verifier;
use crate::config::Env;
use crate::{Chassis, auth, http, postgres};
use actix_web::web::{Data, ServiceConfig};
use anyhow::Context;
use std::ops::RangeInclusive;
use tokio_util::task::AbortOnDropHandle;

/// Says where a REST service listens, which tokens it accepts and where its database is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `HTTP_LISTEN`, `TLS_CERT_FILE`, `TLS_KEY_FILE`, `HTTP_BEHIND_TLS_PROXY`: where the REST server
    /// listens; see [`http::Settings::from_env`].
    pub http: http::Settings,
    /// `JWT_JWKS_FILE` or `JWT_JWKS_URL`, `JWT_ISSUER`, `JWT_AUDIENCE` and more: which tokens are accepted;
    /// see [`auth::Settings::from_env`].
    pub auth: auth::Settings,
    /// `DATABASE_URL_FILE` and the other `DATABASE_` variables; see [`postgres::Settings::from_env`].
    pub database: postgres::Settings,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            http: http::Settings::from_env(env),
            auth: auth::Settings::from_env(env),
            database: postgres::Settings::from_env(env),
        }
    }
}

/// Waits for a database whose schema has one of `versions`, then serves the routes that `configure` adds,
/// until shutdown.
///
/// Handlers find the pool as `Data<Pool>` and ask for the caller by [`auth::Caller`]. The latch `postgres`
/// follows the database.
///
/// # Errors
/// A setting cannot be used, the schema is of another release, or the address cannot be bound (stop).
pub async fn run(
    settings: &Settings,
    versions: RangeInclusive<i32>,
    chassis: &Chassis,
    configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let latch = chassis.readiness.latch("postgres");
    let verifier = Verifier::open(&settings.auth, chassis).context("prepare to verify tokens")?;
    let pool = settings.database.pool().context("prepare the database pool")?;
    if !postgres::wait_for_version(&pool, versions, &chassis.shutdown).await? {
        return Ok(());
    }
    let watch = postgres::watch(pool.clone(), latch, chassis.shutdown.clone());
    let _watch = AbortOnDropHandle::new(tokio::spawn(watch));

    let (pool, verifier) = (Data::new(pool), Data::new(verifier));
    http::serve(chassis, &settings.http, move |app| {
        app.app_data(pool.clone()).app_data(verifier.clone());
        configure(app);
    })
    .await
}

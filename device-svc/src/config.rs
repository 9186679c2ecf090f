//! Settings of device-svc.

use chassis::config::Env;
use chassis::{auth, postgres};
use std::net::SocketAddr;

/// Holds every setting of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HTTP_LISTEN`: address and port of the REST server.
    pub listen: SocketAddr,
    /// `JWT_JWKS_FILE`, `JWT_ISSUER`, `JWT_AUDIENCE`: which tokens are accepted.
    pub auth: auth::Settings,
    /// `DATABASE_URL_FILE` and the other `DATABASE_` variables.
    pub database: postgres::Settings,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            listen: env.socket("HTTP_LISTEN"),
            auth: auth::Settings::from_env(env),
            database: postgres::Settings::from_env(env),
        }
    }
}

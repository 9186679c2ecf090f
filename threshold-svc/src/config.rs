//! Settings of threshold-svc.

use chassis::config::Env;
use chassis::{auth, http, postgres};

/// Holds every setting of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HTTP_LISTEN`, `TLS_CERT_FILE`, `TLS_KEY_FILE`, `HTTP_BEHIND_TLS_PROXY`: where the REST server listens; see
    /// [`http::Settings::from_env`].
    pub http: http::Settings,
    /// `JWT_JWKS_FILE` or `JWT_JWKS_URL`, `JWT_ISSUER`, `JWT_AUDIENCE` and more: which tokens are accepted; see
    /// [`auth::Settings::from_env`].
    pub auth: auth::Settings,
    /// `DATABASE_URL_FILE` and the other `DATABASE_` variables.
    pub database: postgres::Settings,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            http: http::Settings::from_env(env),
            auth: auth::Settings::from_env(env),
            database: postgres::Settings::from_env(env),
        }
    }
}

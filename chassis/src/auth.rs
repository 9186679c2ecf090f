//! Who calls: JWTs verified locally against a JWKS file.

use crate::config::Env;
use crate::http::Problem;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use std::future::{Ready, ready};
use std::path::PathBuf;
use std::sync::Arc;

/// Clocks may differ by so many seconds before `exp` and `nbf` are held against a token.
const CLOCK_SKEW_S_MAX: u64 = 30;
/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Names what a caller may do. `Admin` may do everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Publishes readings.
    Device,
    /// Reads.
    Analyst,
    /// Manages.
    Operator,
    /// Everything.
    Admin,
    /// A role of some other system in the same token.
    #[serde(other)]
    Other,
}

/// Says which tokens are accepted.
#[derive(Clone, Debug)]
pub struct Settings {
    jwks: PathBuf,
    issuer: String,
    audience: String,
}

impl Settings {
    /// Reads `JWT_JWKS_FILE`, `JWT_ISSUER` and `JWT_AUDIENCE`; all are required, there is no way to switch it off.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            jwks: env.path("JWT_JWKS_FILE"),
            issuer: env.text("JWT_ISSUER"),
            audience: env.text("JWT_AUDIENCE"),
        }
    }

    /// Takes the three settings as they are, as tests do.
    pub fn new(jwks: PathBuf, issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { jwks, issuer: issuer.into(), audience: audience.into() }
    }
}

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<JwkSet>,
    settings: Settings,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    roles: Vec<Role>,
}

impl Verifier {
    /// Reads the JWKS file.
    ///
    /// # Errors
    /// It cannot be read or is no JWKS (stop).
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        use anyhow::Context;
        let text = std::fs::read(&settings.jwks).context("read JWT_JWKS_FILE")?;
        let keys: JwkSet = serde_json::from_slice(&text).context("read JWT_JWKS_FILE as a JWKS")?;
        anyhow::ensure!(!keys.keys.is_empty(), "JWT_JWKS_FILE holds no key");
        Ok(Self { keys: Arc::new(keys), settings: settings.clone() })
    }

    /// Verifies signature, `exp`, `nbf`, `aud` and `iss`.
    ///
    /// # Errors
    /// A 401 problem that says which check failed.
    pub fn verify(&self, token: &str) -> Result<Caller, Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(unauthorized("token is too long"));
        }
        let header = decode_header(token).map_err(|_| unauthorized("token is no JWT"))?;
        // HS256 with a public key as the secret is the classic forgery; only asymmetric algorithms are accepted.
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
            return Err(unauthorized("token must be signed with RS256, ES256 or EdDSA"));
        }
        let key = match &header.kid {
            Some(kid) => self.keys.find(kid),
            None => self.keys.keys.first().filter(|_| self.keys.keys.len() == 1),
        };
        let key = key.ok_or_else(|| unauthorized("token is signed with an unknown key"))?;
        let key =
            DecodingKey::from_jwk(key).map_err(|_| unauthorized("token is signed with an unusable key"))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = CLOCK_SKEW_S_MAX;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        match decode::<Claims>(token, &key, &validation) {
            Ok(token) => Ok(Caller { subject: token.claims.sub, roles: token.claims.roles }),
            // The kind names the failed check and holds nothing of the token.
            Err(error) => Err(unauthorized(&format!("token is refused: {:?}", error.kind()))),
        }
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

/// The authenticated caller of a request; as a handler argument it demands a valid bearer token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's `sub`.
    pub subject: String,
    roles: Vec<Role>,
}

impl Caller {
    /// Demands one of the roles; an admin has all of them.
    ///
    /// # Errors
    /// A 403 problem.
    pub fn require(&self, any_of: &[Role]) -> Result<(), Problem> {
        if self.roles.iter().any(|role| *role == Role::Admin || any_of.contains(role)) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("needs one of the roles {any_of:?}").to_lowercase()))
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request))
    }
}

fn authenticate(request: &HttpRequest) -> Result<Caller, Problem> {
    let verifier = request
        .app_data::<web::Data<Verifier>>()
        .ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no verifier is configured"))?;
    let token = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| unauthorized("send a token: Authorization: Bearer …"))?;
    verifier.verify(token)
}

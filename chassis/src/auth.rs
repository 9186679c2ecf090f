//! The caller: JWTs verified locally against a JWKS, from a file or a URL, that is followed while the process
//! runs.

mod keys;
mod settings;

pub use settings::Settings;

use crate::Chassis;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use keys::Keys;
use serde::Deserialize;

/// Tolerance for the clocks of others when `exp` and `nbf` are checked, in seconds.
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

/// The reason for which a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request has no bearer token.
    #[error("send a token: Authorization: Bearer …")]
    Absent,
    /// The token is not believed; the text says which check failed and holds nothing of the token.
    #[error("{0}")]
    Invalid(String),
    /// The token is believed and its roles do not suffice.
    #[error("{0}")]
    Forbidden(String),
    /// No key is known yet to verify a token with.
    #[error("the keys that tokens are signed with are not known yet")]
    Unavailable,
}

impl Error {
    /// Returns the value of `WWW-Authenticate` that belongs to it.
    ///
    /// Source: RFC 6750, section 3.
    pub const fn challenge(&self) -> &'static str {
        match self {
            Self::Absent | Self::Unavailable => "Bearer realm=\"fieldline\"",
            Self::Invalid(_) => "Bearer realm=\"fieldline\", error=\"invalid_token\"",
            Self::Forbidden(_) => "Bearer realm=\"fieldline\", error=\"insufficient_scope\"",
        }
    }
}

/// Returns the token of an `Authorization` header, if its scheme is Bearer, in any case.
///
/// Source: RFC 9110, section 11.1.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Lists the metrics of verifying tokens, which documents are held against.
pub fn metric_names() -> Vec<String> {
    keys::Metrics::names()
}

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    keys: Keys,
    settings: Settings,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    roles: Vec<Role>,
}

impl Verifier {
    /// Reads the keys and follows them until shutdown. Those of a URL may come later: until then the latch
    /// `jwks` is closed.
    ///
    /// # Errors
    /// The file cannot be read or is no JWKS, or the client for the URL cannot be made (stop).
    pub fn open(settings: &Settings, chassis: &Chassis) -> anyhow::Result<Self> {
        Ok(Self { keys: Keys::open(settings, chassis)?, settings: settings.clone() })
    }

    /// Verifies signature, `exp`, `nbf`, `aud` and `iss`. A key that is not known is looked for once more.
    ///
    /// # Errors
    /// [`Error::Invalid`] says which check failed; [`Error::Unavailable`] when no key was read yet.
    pub async fn verify(&self, token: &str) -> Result<Caller, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("token is too long"));
        }
        let header = decode_header(token).map_err(|_| invalid("token is no JWT"))?;
        // HS256 with a public key as the secret is the classic forgery; only asymmetric algorithms are
        // accepted.
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
            return Err(invalid("token must be signed with RS256, ES256 or EdDSA"));
        }
        let key = self.keys.find(header.kid.as_deref()).await?;
        let key = DecodingKey::from_jwk(&key).map_err(|_| invalid("token is signed with an unusable key"))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = CLOCK_SKEW_S_MAX;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        match decode::<Claims>(token, &key, &validation) {
            Ok(token) => Ok(Caller { subject: token.claims.sub, roles: token.claims.roles }),
            Err(error) => Err(Error::Invalid(explain(error.kind()))),
        }
    }
}

/// Says which check failed and what to do about it, with nothing of the token.
fn explain(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "token has expired: get a new one".to_owned(),
        ErrorKind::ImmatureSignature => "token is not valid yet: is a clock wrong?".to_owned(),
        ErrorKind::InvalidAudience => "token's aud is not what JWT_AUDIENCE says here".to_owned(),
        ErrorKind::InvalidIssuer => "token's iss is not what JWT_ISSUER says here".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("token lacks the claim {claim}"),
        ErrorKind::InvalidSignature => "token's signature is not of its key".to_owned(),
        kind => format!("token is refused: {kind:?}"),
    }
}

fn invalid(detail: &str) -> Error {
    Error::Invalid(detail.to_owned())
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
    /// [`Error::Forbidden`].
    pub fn require(&self, any_of: &[Role]) -> Result<(), Error> {
        if self.roles.iter().any(|role| *role == Role::Admin || any_of.contains(role)) {
            return Ok(());
        }
        Err(Error::Forbidden(format!("needs one of the roles {any_of:?}").to_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case_and_no_other_scheme_is() {
        for header in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(bearer(header), Some("a.b.c"), "{header}");
        }
        for header in ["", "Bearer", "Bearer ", "Basic a.b.c", "Bearera.b.c", "a.b.c"] {
            assert_eq!(bearer(header), None, "{header}");
        }
    }
}

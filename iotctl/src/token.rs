//! JSON Web Tokens of a local installation: one ES256 key, its public half as a JWKS, and tokens signed with
//! it.
//!
//! An installation with an identity provider gives its services that provider's JWKS instead; this is for the
//! local stack and tests.

use crate::files::{self, Readers};
use anyhow::{Context as _, Result};
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;

/// Audience of every token: the services of one installation accept each other's users.
pub const AUDIENCE: &str = "fieldline";
/// Issuer of the tokens that this key signs.
pub const ISSUER: &str = "fieldline-local";

/// Name of the file with the private key.
const KEY_FILE: &str = "signing.key";

/// What a token says.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// The issuer, which signed it.
    pub iss: String,
    /// Whom it is for.
    pub aud: String,
    /// The user.
    pub sub: String,
    /// What its user may do: `device`, `analyst`, `operator`, `admin`.
    pub roles: Vec<String>,
    /// When it was made; seconds since 1970, as RFC 7519 has them.
    pub iat: i64,
    /// When it begins to be valid.
    pub nbf: i64,
    /// When it ends.
    pub exp: i64,
}

impl Claims {
    /// Describes a token for `subject` with `roles` that is valid from now on for `ttl`.
    #[must_use]
    pub fn new(subject: &str, roles: &[&str], ttl: Duration) -> Self {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        Self {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: subject.to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
        }
    }
}

/// The installation's signing key.
pub struct Signer {
    folder: PathBuf,
    key: EncodingKey,
    key_id: String,
}

impl Signer {
    /// Says whether there is a key in `folder`.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(KEY_FILE).exists()
    }

    /// Opens the key in `folder`, and makes it and its JWKS first when there is none.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds no P-256 key.
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        let key_file = folder.join(KEY_FILE);
        if !Self::exists(folder) {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("generate the signing key")?;
            files::write(&key_file, pair.serialize_pem().as_bytes(), Readers::Owner)?;
        }
        let key = EncodingKey::from_ec_pem(files::read(&key_file)?.as_bytes())
            .with_context(|| format!("read {}", key_file.display()))?;
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).context("derive the public key")?;
        let key_id = jwk.thumbprint(ThumbprintHash::SHA256).context("derive the key's thumbprint")?;
        jwk.common.key_id = Some(key_id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(KeyAlgorithm::ES256);
        let signer = Self { folder: folder.to_owned(), key, key_id };
        let jwks = serde_json::to_vec_pretty(&JwkSet { keys: vec![jwk] }).context("encode the JWKS")?;
        files::write(&signer.jwks_file(), &jwks, Readers::Everyone)?;
        Ok(signer)
    }

    /// Names the file that the services verify tokens with (`JWT_JWKS_FILE`).
    #[must_use]
    pub fn jwks_file(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// The key does not sign, which would be a defect.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).context("sign the token")
    }

    /// Signs a token for `subject` with `roles`, valid for `ttl`.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn mint(&self, subject: &str, roles: &[&str], ttl: Duration) -> Result<String> {
        self.sign(&Claims::new(subject, roles, ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    fn verify(signer: &Signer, token: &str) -> Result<serde_json::Value> {
        let jwks: JwkSet = serde_json::from_str(&files::read(&signer.jwks_file())?)?;
        let kid = jsonwebtoken::decode_header(token)?.kid.context("no kid")?;
        let key = DecodingKey::from_jwk(jwks.find(&kid).context("unknown kid")?)?;
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&[ISSUER]);
        rules.validate_nbf = true;
        Ok(jsonwebtoken::decode(token, &key, &rules)?.claims)
    }

    #[test]
    fn token_verifies_against_the_jwks_file_also_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Signer::open_or_create(folder.path()).unwrap();
        let token = first.mint("ada", &["operator", "analyst"], Duration::from_secs(60)).unwrap();
        let again = Signer::open_or_create(folder.path()).unwrap();
        let claims = verify(&again, &token).unwrap();
        assert_eq!(claims["sub"], "ada");
        assert_eq!(claims["roles"], serde_json::json!(["operator", "analyst"]));
    }

    #[test]
    fn expired_token_and_token_of_another_key_do_not_verify() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let signer = Signer::open_or_create(folder.path()).unwrap();
        let mut claims = Claims::new("ada", &["operator"], Duration::from_secs(60));
        claims.exp -= 3600;
        assert!(verify(&signer, &signer.sign(&claims).unwrap()).is_err());
        let foreign = Signer::open_or_create(other.path()).unwrap();
        let token = foreign.mint("ada", &["operator"], Duration::from_secs(60)).unwrap();
        assert!(verify(&signer, &token).is_err());
    }
}

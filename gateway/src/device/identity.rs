//! A device's certificate → who it is: subject CN, SHA-256 of the DER, what a revocation list would call it,
//! and until when.
//!
//! No I/O: TLS has verified the chain before; this only reads names, and refuses a certificate whose name is
//! not a sensor id.

use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Reads 64 hex digits, as the registry has them.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Issuer and serial number of a certificate, in 32 bytes: a revocation list knows certificates by these two
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Issue([u8; 32]);

impl Issue {
    /// Takes the DER of the issuer's name and the digits of the serial number, with or without leading zeros.
    pub fn of(issuer: &[u8], serial: &[u8]) -> Self {
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        // A name says its own length, so the two cannot be split elsewhere.
        Self(Sha256::new().chain_update(issuer).chain_update(&serial[zeros..]).finalize().into())
    }
}

/// The last second of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAfter {
    unix_s: i64,
}

impl NotAfter {
    /// Takes seconds since the Unix epoch.
    pub const fn from_unix_s(unix_s: i64) -> Self {
        Self { unix_s }
    }

    /// Returns seconds since the Unix epoch.
    pub const fn unix_s(self) -> i64 {
        self.unix_s
    }

    /// Says whether it is over at `now`; the handshake counts as this does.
    pub fn is_over(self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).is_ok_and(|now_s| now_s > self.unix_s)
    }
}

/// The holder of a certificate. The registry says whether it may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's subject CN.
    pub sensor_id: Arc<str>,
    /// The certificate itself, in 32 bytes.
    pub fingerprint: Fingerprint,
    /// What a revocation list calls it.
    pub issue: Issue,
    /// When it ends. Its authorities' ends are looked at when a connection begins, and not later.
    pub not_after: NotAfter,
}

/// Says why a certificate names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509.
    #[error("the certificate is not X.509")]
    NotX509,
    /// No subject CN, or several.
    #[error("the certificate's subject has not exactly one CN")]
    NotOneName,
    /// The CN breaks the rule for sensor ids.
    #[error("the certificate's CN is not a sensor id")]
    NotSensorId,
}

impl Identity {
    /// Reads the identity out of a certificate.
    ///
    /// # Errors
    /// [`IdentityError`]; the connection is refused.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotX509)?;
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(IdentityError::NotOneName) };
        let sensor_id = name.as_str().map_err(|_| IdentityError::NotSensorId)?;
        schema::check_sensor_id(sensor_id).map_err(|_| IdentityError::NotSensorId)?;
        let issue = Issue::of(certificate.issuer().as_raw(), certificate.raw_serial());
        let not_after = NotAfter::from_unix_s(certificate.validity().not_after.timestamp());
        Ok(Self { sensor_id: sensor_id.into(), fingerprint: Fingerprint::of(der), issue, not_after })
    }
}

#[cfg(test)]
impl Identity {
    /// The holder of a certificate that nobody parses.
    pub(crate) fn of(sensor_id: &str, der: &[u8]) -> Self {
        let issue = Issue::of(b"issuer", der);
        let not_after = NotAfter::from_unix_s(i64::MAX);
        Self { sensor_id: sensor_id.into(), fingerprint: Fingerprint::of(der), issue, not_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn certificate_names_its_sensor() {
        let der = certificate(&["thermostat-1"]);
        let identity = Identity::from_certificate(&der).unwrap();
        assert_eq!(&*identity.sensor_id, "thermostat-1");
        let hex = format!("{:?}", Fingerprint::of(&der));
        assert_eq!(Fingerprint::from_hex(&hex), Some(identity.fingerprint));
        assert_eq!(Fingerprint::from_hex(&hex.to_uppercase()), Some(identity.fingerprint));
        assert_eq!(Fingerprint::from_hex(&hex[1..]), None);
        assert_eq!(Fingerprint::from_hex(&hex.replace(&hex[..1], "g")), None);
    }

    #[test]
    fn certificate_without_a_sensor_id_names_nobody() {
        assert_eq!(Identity::from_certificate(&certificate(&[])), Err(IdentityError::NotOneName));
        for name in ["", "a/b", "+", "#", "été", "a b"] {
            assert_eq!(
                Identity::from_certificate(&certificate(&[name])),
                Err(IdentityError::NotSensorId),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Identity::from_certificate(&bytes);
        }

        #[test]
        fn any_truncation_never_panics(len in 0usize..600) {
            let der = certificate(&["thermostat-1"]);
            let _ = Identity::from_certificate(&der[..len.min(der.len() - 1)]);
        }
    }
}

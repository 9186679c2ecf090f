//! TLS handshakes that fail: why, as a metric label. Pure.

use rustls::{CertificateError, Error};
use std::io;

/// Says why a handshake failed, as a metric label. The set is fixed.
pub(crate) fn reason(error: &io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return "tls-gone";
    };
    match error {
        Error::NoCertificatesPresented => "tls-no-certificate",
        Error::InvalidCertificate(error) => certificate_reason(error),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "not-tls",
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => "tls-incompatible",
        // Most often the client does not know the gateway's own authority.
        Error::AlertReceived(_) => "tls-alert",
        _ => "tls",
    }
}

fn certificate_reason(error: &CertificateError) -> &'static str {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, ExpiredRevocationList, ExpiredRevocationListContext,
        NotValidYet, NotValidYetContext, Revoked, UnknownIssuer, UnknownRevocationStatus,
    };
    match error {
        // The second is an authority of the same name with another key.
        UnknownIssuer | BadSignature => "tls-unknown-authority",
        Expired | ExpiredContext { .. } => "tls-expired",
        NotValidYet | NotValidYetContext { .. } => "tls-not-valid-yet",
        Revoked => "tls-revoked",
        UnknownRevocationStatus | ExpiredRevocationList | ExpiredRevocationListContext { .. } => {
            "tls-revocation-unknown"
        }
        _ => "tls-certificate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_reason() {
        let failed = |error: Error| reason(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(failed(Error::NoCertificatesPresented), "tls-no-certificate");
        assert_eq!(
            failed(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
            "tls-unknown-authority"
        );
        assert_eq!(failed(Error::InvalidCertificate(CertificateError::Expired)), "tls-expired");
        assert_eq!(failed(Error::InvalidCertificate(CertificateError::BadEncoding)), "tls-certificate");
        assert_eq!(failed(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), "not-tls");
        assert_eq!(failed(Error::DecryptError), "tls");
        assert_eq!(reason(&io::ErrorKind::UnexpectedEof.into()), "tls-gone");
    }
}

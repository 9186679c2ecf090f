//! TLS handshakes that fail: why, as a metric label, and a line in the log for some of them.
//!
//! Strangers decide how many there are, so the log has a line for each reason once a minute, with the number
//! of those in between. The metrics count every one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::{CertificateError, Error};
use tokio::time::Instant;

/// Wait between two lines with one reason: rare enough for a flood, often enough for somebody who looks on.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

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

/// Says now and then why handshakes fail.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    by_reason: Mutex<HashMap<&'static str, Notice>>,
}

#[derive(Debug)]
struct Notice {
    said_at: Instant,
    /// Failures since then.
    unsaid: u64,
}

impl Notices {
    /// Takes down a failure, and logs it if it is time for a line.
    pub(crate) fn take(&self, reason: &'static str, peer: Option<SocketAddr>, error: &io::Error) {
        let Some(others) = self.due(reason, Instant::now()) else { return };
        let peer = peer.map(tracing::field::display);
        tracing::warn!(reason, peer, %error, others, "TLS handshake failed");
    }

    /// Counts one more; when a line is due, returns how many have had none since the last.
    fn due(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut by_reason = self.by_reason.lock();
        let Some(notice) = by_reason.get_mut(reason) else {
            by_reason.insert(reason, Notice { said_at: now, unsaid: 0 });
            return Some(0);
        };
        if now.duration_since(notice.said_at) < LINE_INTERVAL {
            notice.unsaid += 1;
            return None;
        }
        notice.said_at = now;
        Some(std::mem::take(&mut notice.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_line_now_and_then_and_counts_those_without() {
        let (notices, start) = (Notices::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(notices.due("not-tls", at(0)), Some(0));
        assert_eq!(notices.due("not-tls", at(1)), None);
        assert_eq!(notices.due("tls-expired", at(2)), Some(0), "another reason has its own");
        assert_eq!(notices.due("not-tls", at(59)), None);
        assert_eq!(notices.due("not-tls", at(60)), Some(2));
        assert_eq!(notices.due("not-tls", at(61)), None);
    }

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

//! TLS as the gateway speaks it: client certificates are required, and nothing is resumed.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Where the gateway's own certificate is, and whose devices it believes. PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The gateway's certificate and what leads from it to a root that devices know.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that sign device certificates.
    pub client_ca: PathBuf,
    /// Their revocation lists. When given, each authority needs one: a device whose authority has none is refused.
    pub crl: Option<PathBuf>,
}

/// Reads the files into settings for new connections; the present ones keep theirs.
///
/// Guarantee: a client without a certificate of one of the authorities, or with a revoked one, does not get through the
/// handshake. Sessions are not resumed, because a resumed one would not be asked for its certificate again.
///
/// # Errors
/// A file cannot be read or holds something else (stop).
pub(crate) fn load(files: &Files) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.client_ca)? {
        roots.add(authority).with_context(|| format!("use an authority of {}", files.client_ca.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = match &files.crl {
        Some(crl) => verifier.with_crls(revocations(crl)?).only_check_end_entity_revocation(),
        None => verifier,
    };
    let verifier = verifier.build().context("set up the check of client certificates")?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("read the key in {}", files.key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, key)
        .context("use the gateway's certificate")?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(path: &PathBuf) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("read the certificates in {}", path.display()))?;
    anyhow::ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
    Ok(certificates)
}

fn revocations(path: &PathBuf) -> anyhow::Result<Vec<CertificateRevocationListDer<'static>>> {
    CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("read the revocation lists in {}", path.display()))
}

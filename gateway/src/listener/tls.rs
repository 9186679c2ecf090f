//! TLS as the gateway speaks it: client certificates are required, and nothing is resumed.
//!
//! Without resumption each connection costs a whole handshake: about a millisecond of one core, and two
//! kilobytes more on the wire. A device connects for hours, and a resumed session would not be asked for its
//! certificate again.

use crate::config::TlsFiles;
use crate::device::identity::Issue;
use anyhow::{Context, ensure};
use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// The bytes of all files, as they were at one time.
pub(crate) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
    crl: Option<Vec<u8>>,
}

/// What new connections are served with.
pub(crate) struct Loaded {
    /// For MQTT: who has no certificate does not get through the handshake.
    pub(crate) mqtt: Arc<ServerConfig>,
    /// For HTTP: a certificate is checked just as strictly, but a token may stand in for it.
    pub(crate) http: Arc<ServerConfig>,
    /// Every certificate of the revocation lists.
    pub(crate) revoked: Arc<HashSet<Issue>>,
    /// Until when the files are good.
    pub(crate) ends: Ends,
}

/// Until when the files are good, in seconds since the Unix epoch; the earliest of each file.
///
/// A certificate that has ended, the gateway's own or an authority's, lets nobody in any more. A list past
/// its `nextUpdate` stays in force: to refuse every device because one file is late would be the worse
/// failure, and the registry, which names every certificate by its fingerprint, can shut out a device without
/// any list. A certificate revoked meanwhile is not known here, so the time is a metric, and the runbook has
/// an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// `notAfter` of the gateway's certificate and of what leads from it to a root.
    pub(crate) certificate_s: i64,
    /// `notAfter` of the authorities that sign device certificates.
    pub(crate) authorities_s: i64,
    /// `nextUpdate` of the revocation lists, where they have one.
    pub(crate) lists_s: Option<i64>,
}

impl Ends {
    fn of(
        chain: &[CertificateDer<'_>],
        authorities: &[CertificateDer<'_>],
        lists: &[CertificateRevocationListDer<'_>],
    ) -> anyhow::Result<Self> {
        let mut next_updates = Vec::new();
        for list in lists {
            let (_, list) = CertificateRevocationList::from_der(list).context("parse a revocation list")?;
            next_updates.extend(list.next_update().map(|end| end.timestamp()));
        }
        Ok(Self {
            certificate_s: not_after(chain).context("parse the gateway's certificate")?,
            authorities_s: not_after(authorities).context("parse an authority of devices")?,
            lists_s: next_updates.into_iter().min(),
        })
    }
}

/// Finds the earliest end of some certificates.
fn not_after(certificates: &[CertificateDer<'_>]) -> anyhow::Result<i64> {
    let mut earliest = i64::MAX;
    for der in certificates {
        let (_, certificate) = X509Certificate::from_der(der)?;
        earliest = earliest.min(certificate.validity().not_after.timestamp());
    }
    Ok(earliest)
}

impl Contents {
    /// Reads all files that are given.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn read(files: &TlsFiles) -> anyhow::Result<Self> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: read(&files.client_ca)?,
            crl: files.crl.as_deref().map(read).transpose()?,
        })
    }

    /// Changes with any byte of any file.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.cert, &self.key, &self.client_ca].into_iter().chain(&self.crl) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Makes settings for new connections; the present ones keep theirs.
    ///
    /// Guarantee: a client with a certificate of another authority, or with a revoked one, does not get
    /// through the handshake. Connections are not resumed, because a resumed one would not be asked for its
    /// certificate again.
    ///
    /// # Errors
    /// A file holds something else, or a revocation list is not signed by its authority.
    pub(crate) fn load(&self) -> anyhow::Result<Loaded> {
        let provider = Arc::new(ring::default_provider());
        let authorities = certificates(&self.client_ca).context("read the authorities of devices")?;
        let lists = match &self.crl {
            Some(pem) => CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .context("read the revocation lists")?,
            None => Vec::new(),
        };
        // Without any list nothing would be checked: an empty file must not open the door that it is there to
        // close.
        ensure!(self.crl.is_none() || !lists.is_empty(), "the file of revocation lists holds none");
        let revoked = revoked(&lists, &authorities).context("use the revocation lists")?;
        let chain = certificates(&self.cert).context("read the gateway's certificate")?;
        let ends = Ends::of(&chain, &authorities, &lists)?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).context("use an authority of devices")?;
        }
        let builder = || {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
            match &self.crl {
                Some(_) => verifier.with_crls(lists.iter().cloned()).only_check_end_entity_revocation(),
                None => verifier,
            }
        };
        let context = "set up the check of client certificates";
        let mqtt = self.config(chain.clone(), builder().build().context(context)?)?;
        let mut http = self.config(chain, builder().allow_unauthenticated().build().context(context)?)?;
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Loaded { mqtt: Arc::new(mqtt), http: Arc::new(http), revoked: Arc::new(revoked), ends })
    }

    fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> anyhow::Result<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(&self.key).context("read the gateway's key")?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .context("use the gateway's certificate")?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// The settings of new connections; a newer version takes their place at once.
pub(crate) struct Tls {
    present: RwLock<Arc<Loaded>>,
}

impl Tls {
    /// Starts with these.
    pub(crate) fn new(loaded: Arc<Loaded>) -> Self {
        Self { present: RwLock::new(loaded) }
    }

    /// Returns the settings that stand now.
    pub(crate) fn present(&self) -> Arc<Loaded> {
        self.present.read().clone()
    }

    /// Puts newer ones in their place.
    pub(crate) fn replace(&self, loaded: Arc<Loaded>) {
        *self.present.write() = loaded;
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!certificates.is_empty(), "the file holds no certificate");
    Ok(certificates)
}

/// Lists what the lists revoke. A list of an authority of the bundle must be signed by it: a forged one would
/// lock out every device, and rustls looks at signatures only when a device comes.
fn revoked(
    lists: &[CertificateRevocationListDer<'_>],
    authorities: &[CertificateDer<'_>],
) -> anyhow::Result<HashSet<Issue>> {
    let authorities = authorities
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, authority)| authority))
        .collect::<Result<Vec<_>, _>>()
        .context("parse an authority of devices")?;
    let mut revoked = HashSet::new();
    for list in lists {
        let (_, list) = CertificateRevocationList::from_der(list).context("parse a revocation list")?;
        let issuer = list.issuer();
        let mut signers = authorities.iter().filter(|authority| authority.subject() == issuer).peekable();
        ensure!(
            signers.peek().is_none()
                || signers.any(|authority| list.verify_signature(authority.public_key()).is_ok()),
            "the list of {issuer} is not signed by it"
        );
        let entries = list.iter_revoked_certificates();
        revoked.extend(entries.map(|entry| Issue::of(issuer.as_raw(), entry.raw_serial())));
    }
    Ok(revoked)
}

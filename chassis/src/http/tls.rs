//! A REST server's certificate, followed while it runs: a new one is shown from the next handshake on.

use super::settings::TlsFiles;
use crate::{Chassis, metrics};
use anyhow::{Context, ensure};
use parking_lot::{Mutex, RwLock};
use prometheus::{IntGauge, IntGaugeVec};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::parse_x509_certificate;

/// Time between two looks at the files, which are a few kilobytes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate in force.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    present: RwLock<Arc<CertifiedKey>>,
    /// The files as they were read last, to tell what is new.
    seen: Mutex<Contents>,
    metrics: Metrics,
}

metrics! {
    /// Shows the certificate in force.
    #[derive(Debug)]
    pub(super) struct Metrics {
        /// 1 while TLS_CERT_FILE and TLS_KEY_FILE cannot be used; the certificate in force stays.
        stale: IntGauge = "http_tls_files_stale_flag",
        /// When the certificate in force ends, or one between it and its root if that is earlier.
        ends: IntGaugeVec = "http_tls_ends_timestamp_seconds" by ["file"],
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().clone())
    }
}

impl Certificate {
    /// Reads the files and follows them until shutdown.
    ///
    /// # Errors
    /// They cannot be read or used (stop).
    pub(super) fn open(files: &TlsFiles, chassis: &Chassis) -> anyhow::Result<Arc<Self>> {
        let contents = Contents::read(files)?;
        let metrics = Metrics::register(&chassis.registry)?;
        let (present, end) = contents.load()?;
        let certificate = Arc::new(Self {
            files: files.clone(),
            present: RwLock::new(Arc::new(present)),
            seen: Mutex::new(contents),
            metrics,
        });
        certificate.metrics.ends.with_label_values(&["certificate"]).set(end);
        let (follower, shutdown) = (certificate.clone(), chassis.shutdown.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(follower.follow()).await });
        Ok(certificate)
    }

    /// Makes the settings of the server.
    ///
    /// # Errors
    /// The provider has no TLS version in common with us, which would be a defect (stop).
    pub(super) fn config(self: &Arc<Self>) -> anyhow::Result<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?;
        Ok(config.with_no_client_auth().with_cert_resolver(self.clone()))
    }

    /// Looks at the files again and again; never ends.
    async fn follow(self: Arc<Self>) {
        let mut said = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looker = self.clone();
            let looked = tokio::task::spawn_blocking(move || looker.look()).await;
            let Err(error) = looked.map_err(Into::into).flatten() else {
                self.metrics.stale.set(0);
                said = None;
                continue;
            };
            self.metrics.stale.set(1);
            let text = format!("{error:#}");
            if said.as_ref() != Some(&text) {
                tracing::error!(error = text, "new TLS files cannot be used; the certificate in force stays");
                said = Some(text);
            }
        }
    }

    fn look(&self) -> anyhow::Result<()> {
        let contents = Contents::read(&self.files)?;
        if *self.seen.lock() == contents {
            return Ok(());
        }
        let (present, end) = contents.load()?;
        *self.present.write() = Arc::new(present);
        self.metrics.ends.with_label_values(&["certificate"]).set(end);
        *self.seen.lock() = contents;
        tracing::info!("a new TLS certificate is in force");
        Ok(())
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> anyhow::Result<Self> {
        let cert = std::fs::read(&files.cert).context("read TLS_CERT_FILE")?;
        Ok(Self { cert, key: std::fs::read(&files.key).context("read TLS_KEY_FILE")? })
    }

    /// Reads both, and when the chain ends, in Unix seconds. A key of another certificate is refused, as it
    /// is between the writes of the two files.
    fn load(&self) -> anyhow::Result<(CertifiedKey, i64)> {
        let chain = CertificateDer::pem_slice_iter(&self.cert).collect::<Result<Vec<_>, _>>();
        let chain = chain.context("use TLS_CERT_FILE")?;
        ensure!(!chain.is_empty(), "TLS_CERT_FILE holds no certificate");
        let mut end = i64::MAX;
        for der in &chain {
            let (_, certificate) = parse_x509_certificate(der).context("use TLS_CERT_FILE")?;
            end = end.min(certificate.validity().not_after.timestamp());
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).context("use TLS_KEY_FILE")?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .context("use TLS_KEY_FILE with TLS_CERT_FILE")?;
        Ok((certified, end))
    }
}

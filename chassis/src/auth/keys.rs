//! The keys that tokens are verified with, followed while the process runs.
//!
//! A file is read every second, a URL every `JWT_JWKS_REFRESH_MS`. A token with a key that is not known makes
//! it be read once more at once, and the next such token not before [`ASKED_INTERVAL`]: strangers choose the
//! names of keys, too. Keys that cannot be read or used change nothing: those in force stay, and
//! `auth_jwks_stale_flag` says so.

use super::Error;
use super::settings::{Settings, Source};
use crate::admin::Latch;
use crate::retry::Backoff;
use crate::{Chassis, metrics};
use anyhow::{Context, ensure};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use parking_lot::{Mutex, RwLock};
use prometheus::{IntCounterVec, IntGauge};
use reqwest_rustls::{Certificate, Client};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two reads of a file: it is a few kilobytes, and a key that was taken out is to be out at
/// once.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which another unknown key may make the keys be read again.
const ASKED_INTERVAL: Duration = Duration::from_secs(10);
/// Time that a server may take to answer with its keys; a request with an unknown key waits for it.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Largest JWKS, in bytes: a hundred RSA keys with their certificates.
const JWKS_BYTES_MAX: usize = 1 << 20;

/// The keys in force. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keys(Arc<Shared>);

struct Shared {
    source: Opened,
    present: RwLock<Arc<JwkSet>>,
    /// The bytes that were read last, to tell what is new.
    seen: Mutex<Vec<u8>>,
    /// When an unknown key last made the keys be read; held during every read, so that concurrent callers
    /// share one.
    asked_at: tokio::sync::Mutex<Option<Instant>>,
    /// The last message about keys that cannot be read.
    said: Mutex<Option<String>>,
    latch: Option<Latch>,
    metrics: Metrics,
}

enum Opened {
    File(PathBuf),
    Url { client: Client, url: String, interval: Duration },
}

metrics! {
    /// Counts reads of the keys.
    pub(super) struct Metrics {
        /// Reads of the keys for tokens, by outcome.
        reads: IntCounterVec = "auth_jwks_reads_total" by ["outcome"],
        /// 1 while the keys for tokens cannot be read again; those in force stay.
        stale: IntGauge = "auth_jwks_stale_flag",
    }
}

impl Keys {
    pub(super) fn open(settings: &Settings, chassis: &Chassis) -> anyhow::Result<Self> {
        let source = Opened::new(&settings.source)?;
        let (present, seen) = match &settings.source {
            Source::File(path) => {
                let bytes = std::fs::read(path).context("read JWT_JWKS_FILE")?;
                (parse(&bytes).context("use JWT_JWKS_FILE")?, bytes)
            }
            Source::Url { .. } => (JwkSet { keys: Vec::new() }, Vec::new()),
        };
        let latch = present.keys.is_empty().then(|| chassis.readiness.latch("jwks"));
        let metrics = Metrics::register(&chassis.registry)?;
        for outcome in ["read", "failed"] {
            metrics.reads.with_label_values(&[outcome]);
        }
        let keys = Self(Arc::new(Shared {
            source,
            present: RwLock::new(Arc::new(present)),
            seen: Mutex::new(seen),
            asked_at: tokio::sync::Mutex::default(),
            said: Mutex::default(),
            latch,
            metrics,
        }));
        let (shared, shutdown) = (keys.0.clone(), chassis.shutdown.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(follow(shared)).await });
        Ok(keys)
    }

    /// Returns the key of that name. A token without a name is signed with the only key there is.
    pub(super) async fn find(&self, name: Option<&str>) -> Result<Jwk, Error> {
        if let Some(key) = self.present(name) {
            return Ok(key);
        }
        // In a task, so that a caller that hangs up does not take the answer from others that wait for it.
        let shared = self.0.clone();
        let _ = tokio::spawn(async move { shared.read_when_asked().await }).await;
        let unknown = || {
            Error::Invalid(
                "token is signed with a key that is not among those of JWT_JWKS_FILE or JWT_JWKS_URL"
                    .to_owned(),
            )
        };
        let are_none = self.0.present.read().keys.is_empty();
        self.present(name).ok_or_else(|| if are_none { Error::Unavailable } else { unknown() })
    }

    fn present(&self, name: Option<&str>) -> Option<Jwk> {
        let keys = self.0.present.read().clone();
        match name {
            Some(name) => keys.find(name).cloned(),
            None => keys.keys.first().filter(|_| keys.keys.len() == 1).cloned(),
        }
    }
}

/// Reads the keys again and again; never ends.
async fn follow(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    // Those of a file were read at the start.
    let mut is_known = matches!(shared.source, Opened::File(_));
    loop {
        let wait = if is_known { shared.source.interval() } else { backoff.next_wait() };
        tokio::time::sleep(wait.min(shared.source.interval())).await;
        is_known = {
            let _one_at_a_time = shared.asked_at.lock().await;
            shared.read().await
        };
        if is_known {
            backoff.reset();
        }
    }
}

impl Shared {
    /// Reads the keys, unless an unknown key made them be read a moment ago. Concurrent callers wait for one
    /// read.
    async fn read_when_asked(&self) {
        let mut asked_at = self.asked_at.lock().await;
        if asked_at.is_none_or(|at| at.elapsed() >= ASKED_INTERVAL) {
            *asked_at = Some(Instant::now());
            self.read().await;
        }
    }

    /// Reads the keys; says whether those in force are the source's.
    async fn read(&self) -> bool {
        match self.source.read().await.and_then(|bytes| self.take(bytes)) {
            Ok(()) => {
                *self.said.lock() = None;
                self.metrics.reads.with_label_values(&["read"]).inc();
                self.metrics.stale.set(0);
                true
            }
            Err(error) => {
                self.complain(&error);
                false
            }
        }
    }

    fn take(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        if *self.seen.lock() == bytes {
            return Ok(());
        }
        let keys = parse(&bytes)?;
        tracing::info!(keys = keys.keys.len(), "new keys for tokens are in force");
        *self.present.write() = Arc::new(keys);
        *self.seen.lock() = bytes;
        if let Some(latch) = &self.latch {
            latch.open();
        }
        Ok(())
    }

    /// Counts a failure, and says once what is wrong.
    fn complain(&self, error: &anyhow::Error) {
        self.metrics.reads.with_label_values(&["failed"]).inc();
        self.metrics.stale.set(1);
        let text = format!("{error:#}");
        let mut said = self.said.lock();
        if said.as_ref() != Some(&text) {
            tracing::error!(error = text, "keys for tokens cannot be read; those in force stay");
            *said = Some(text);
        }
    }
}

impl Opened {
    fn new(source: &Source) -> anyhow::Result<Self> {
        let (url, ca, interval) = match source {
            Source::File(path) => return Ok(Self::File(path.clone())),
            Source::Url { url, ca, refresh_interval } => (url.clone(), ca, *refresh_interval),
        };
        let mut client =
            Client::builder().timeout(FETCH_WAIT).https_only(url.starts_with("https://")).no_proxy();
        if let Some(ca) = ca {
            let pem = std::fs::read(ca).context("read JWT_JWKS_CA_FILE")?;
            client =
                client.tls_certs_only(Certificate::from_pem_bundle(&pem).context("use JWT_JWKS_CA_FILE")?);
        }
        Ok(Self::Url { client: client.build().context("make a client for JWT_JWKS_URL")?, url, interval })
    }

    fn interval(&self) -> Duration {
        match self {
            Self::File(_) => FILE_INTERVAL,
            Self::Url { interval, .. } => *interval,
        }
    }

    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) => tokio::fs::read(path).await.context("read JWT_JWKS_FILE"),
            Self::Url { client, url, .. } => fetch(client, url).await.context("fetch JWT_JWKS_URL"),
        }
    }
}

async fn fetch(client: &Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let mut answer = client.get(url).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        ensure!(bytes.len() + chunk.len() <= JWKS_BYTES_MAX, "the answer is over {JWKS_BYTES_MAX} bytes");
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> anyhow::Result<JwkSet> {
    let keys: JwkSet = serde_json::from_slice(bytes).context("read a JWKS")?;
    // Without any key nobody could come in: it is more likely a file that is being written.
    ensure!(!keys.keys.is_empty(), "the JWKS holds no key");
    Ok(keys)
}

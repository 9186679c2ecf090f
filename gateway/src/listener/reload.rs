//! TLS files that change under a running gateway → settings for new connections, and the end of revoked ones.
//!
//! The files are looked at four times a second, rather than on a signal: a secret that is mounted into a
//! container changes without one. Live connections keep what they have agreed on, except that one whose
//! certificate is on a newly loaded list is closed. An authority that is taken out of the bundle signs nobody
//! in any more, but closes nobody: the registry pins every certificate by its fingerprint, so that a stolen
//! authority opens no door by itself.

use crate::config::TlsFiles;
use crate::gateway::Gateway;
use crate::listener::Door;
use crate::listener::tls::{Contents, Ends, Loaded};
use crate::metrics::Metrics;
use crate::watchdog::Standing;
use anyhow::Context;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How often the files are looked at: a revoked connection is to be closed within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Two writes so close together can have one time stamp; a file younger than this is read again, whatever its
/// stamp says.
const STAMP_TRUST_AFTER: Duration = Duration::from_secs(2);

/// Files, and what was last seen of them.
pub(crate) struct Watch {
    files: TlsFiles,
    stamps: Vec<Stamp>,
    digest: Option<[u8; 32]>,
    /// The last message about files that cannot be used.
    said: Option<String>,
    /// Looks that have ended.
    looks: Arc<AtomicU64>,
}

/// Tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let stamp = path
            .metadata()
            .and_then(|file| Ok(Self { modified: file.modified()?, bytes: file.len(), inode: file.ino() }));
        stamp.with_context(|| format!("look at {}", path.display()))
    }

    fn is_young(self) -> bool {
        // A stamp of the future counts as young: the clock was set back.
        SystemTime::now().duration_since(self.modified).map_or(true, |age| age < STAMP_TRUST_AFTER)
    }
}

impl Watch {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be used (stop).
    pub(crate) fn start(files: TlsFiles) -> anyhow::Result<(Self, Arc<Loaded>)> {
        let mut watch = Self { files, stamps: Vec::new(), digest: None, said: None, looks: Arc::default() };
        let loaded = watch.look()?.context("TLS files are there at the start")?;
        Ok((watch, loaded))
    }

    /// Says how it stands: there is always a next look.
    pub(crate) fn standing(&self) -> impl Fn() -> Standing + Send + use<> {
        let looks = self.looks.clone();
        move || Standing { steps: looks.load(Ordering::Relaxed), has_work: true, waits_outside: false }
    }

    /// Loads the files if they have changed.
    ///
    /// # Errors
    /// They have, and cannot be used.
    fn look(&mut self) -> anyhow::Result<Option<Arc<Loaded>>> {
        let contents = match self.read() {
            Ok(Some(contents)) => contents,
            Ok(None) => return Ok(None),
            Err(error) => {
                // The next readable contents are news, even when they are what was there before.
                (self.stamps, self.digest) = (Vec::new(), None);
                return Err(error);
            }
        };
        let digest = contents.digest();
        if self.digest.replace(digest) == Some(digest) {
            return Ok(None);
        }
        contents.load().map(|loaded| Some(Arc::new(loaded)))
    }

    /// Reads the files if their stamps say that they may have changed.
    fn read(&mut self) -> anyhow::Result<Option<Contents>> {
        let stamps = self.files.paths().map(Stamp::of).collect::<Result<Vec<_>, _>>()?;
        if stamps == self.stamps && !stamps.iter().any(|stamp| stamp.is_young()) {
            return Ok(None);
        }
        self.stamps = stamps;
        Contents::read(&self.files).map(Some)
    }

    /// Follows the files until that fails (stop): a revocation that nobody reads must not go unseen.
    pub(crate) async fn follow(mut self, door: &Door, gateway: &Gateway) -> anyhow::Error {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looked = tokio::task::spawn_blocking(move || {
                let outcome = self.look();
                (self, outcome)
            });
            let outcome = match looked.await {
                Ok((watch, outcome)) => {
                    self = watch;
                    outcome
                }
                // Only a panic ends up here, and takes the watch with it.
                Err(error) => return anyhow::Error::new(error).context("follow the TLS files"),
            };
            self.looks.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(None) => {}
                Ok(Some(loaded)) => self.take(door, gateway, loaded),
                Err(error) => self.complain(gateway, &error),
            }
        }
    }

    fn take(&mut self, door: &Door, gateway: &Gateway, loaded: Arc<Loaded>) {
        self.said = None;
        let revoked = loaded.revoked.len();
        show(&gateway.metrics, &loaded.ends);
        gateway.registry.revoke(loaded.revoked.clone());
        door.tls.replace(loaded);
        gateway.connections.recheck_all(|identity| gateway.registry.lookup(identity).err());
        tracing::info!(revoked, "new TLS files are in force");
        gateway.metrics.tls.reloads.with_label_values(&["loaded"]).inc();
        gateway.metrics.tls.files_stale.set(0);
    }

    /// Says once what is wrong with the files.
    fn complain(&mut self, gateway: &Gateway, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.said.as_ref() == Some(&text) {
            return;
        }
        tracing::error!(error = text, "new TLS files cannot be used; those in force stay");
        gateway.metrics.tls.files_stale.set(1);
        gateway.metrics.tls.reloads.with_label_values(&["refused"]).inc();
        self.said = Some(text);
    }
}

/// Shows until when the files in force are good.
pub(crate) fn show(metrics: &Metrics, ends: &Ends) {
    metrics.tls.show(ends.certificate_s, ends.authorities_s, ends.lists_s);
}

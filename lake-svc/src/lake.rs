//! The store, and what may be written to it in which order.

use crate::cut::{Cut, Manifest, file_path_of};
use crate::file::Files;
use anyhow::Context;
use bytes::Bytes;
use chassis::config::Secret;
use chassis::retry::Disposition;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// Most retries of the store's client. The service itself tries again, and says so; the client only rides
/// over a lost packet.
const CLIENT_RETRIES_MAX: u32 = 2;
/// Where a file is written before it gets its name, in a folder: the store's own drafts stand beside the
/// final name, where a crash leaves them and Spark reads them.
const DRAFTS: &str = "drafts";
/// A draft of this age is what a crash has left.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(86_400);
/// An object that every instance tries to create and only the first one can.
const PROBE: &str = "cuts/created-once";

/// Says where the lake is.
#[derive(Clone, Debug)]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket.
    S3(S3),
}

/// Says which bucket, and how it is reached.
#[derive(Clone, Debug)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Stands before every object; empty for none.
    pub prefix: String,
    /// Its region.
    pub region: Option<String>,
    /// Another server than AWS.
    pub endpoint: Option<String>,
    /// Key id and secret; none means the role of this machine or pod.
    pub credentials: Option<(String, Secret)>,
}

/// Says what became of a cut that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another instance has cut differently from the same offset on: its cut stands, ours is dropped.
    #[error("another instance has made this cut already, with another end")]
    Outrun,
    /// The store cannot answer (retry).
    #[error("the store does not answer")]
    Unavailable(#[from] anyhow::Error),
}

impl Error {
    /// Says what follows: a cut that another instance has made is put aside.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Outrun => Disposition::DeadLetter,
            Self::Unavailable(_) => Disposition::Retry,
        }
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Where a partition goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The offset that is in no complete cut; none when there is no cut at all.
    pub next: Option<i64>,
    /// The end of a cut that was begun there and is not complete.
    pub pinned_last: Option<i64>,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    /// Timeout of a call, the client's retries included. A folder has no client that would give up, and a
    /// network file system may hang for ever.
    call_max: Duration,
    /// Whether an object is drafted elsewhere and then linked to its name.
    drafts: bool,
}

impl Lake {
    /// Opens the store without asking it anything. `answer_max` is the timeout of one request.
    ///
    /// # Errors
    /// The settings name none (stop).
    pub fn open(location: &Location, answer_max: Duration) -> anyhow::Result<Self> {
        let call_max = answer_max.saturating_mul(CLIENT_RETRIES_MAX + 1);
        match location {
            Location::Folder(path) => {
                let folder = LocalFileSystem::new_with_prefix(path).context("open the lake's folder")?;
                // A file that may vanish with the power must not stand before offsets that are never read
                // again.
                Ok(Self { store: Arc::new(folder.with_fsync(true)), call_max, drafts: true })
            }
            Location::S3(s3) => {
                let bucket = PrefixStore::new(bucket(s3, answer_max)?, s3.prefix.as_str());
                Ok(Self { store: Arc::new(bucket), call_max, drafts: false })
            }
        }
    }

    /// Removes what crashes have left behind.
    ///
    /// # Errors
    /// The store does not answer (retry).
    pub async fn tidy(&self) -> anyhow::Result<()> {
        if !self.drafts {
            return Ok(());
        }
        let drafts: Vec<_> = self
            .answer(self.store.list(Some(&Path::from(DRAFTS))).try_collect())
            .await
            .context("list drafts")?;
        for draft in drafts {
            let age = SystemTime::from(draft.last_modified).elapsed().unwrap_or_default();
            if age > DRAFT_AGE_MAX {
                self.answer(self.store.delete(&draft.location)).await.context("remove a draft")?;
            }
        }
        Ok(())
    }

    /// Finds out whether the store keeps what it was asked to create only if it is not there.
    ///
    /// Guarantee: false means that two instances could overwrite each other's decisions on this store.
    ///
    /// # Errors
    /// The store does not answer (retry).
    pub async fn creates_only_once(&self) -> anyhow::Result<bool> {
        self.create(PROBE, Bytes::from_static(b"{}\n")).await?;
        Ok(!self.create(PROBE, Bytes::from_static(b"{}\n")).await?)
    }

    /// Returns where a partition goes on, as the store tells it.
    ///
    /// # Errors
    /// The store does not answer, or holds a manifest that is not ours (retry).
    pub async fn position(&self, partition: i32) -> anyhow::Result<Position> {
        let folder = Path::from(Cut::folder(partition));
        let newest = self.store.list(Some(&folder)).try_fold(None, async |newest, object| {
            Ok(newest.max(object.location.filename().and_then(Cut::first_of)))
        });
        let Some(first) = self.answer(newest).await.context("list the cuts of a partition")? else {
            return Ok(Position::default());
        };
        let manifest = self.manifest(&Cut { partition, first, last: first }).await?;
        let cut = Cut { partition, first, last: manifest.last };
        for day in manifest.rows.keys() {
            let path = file_path_of(&cut, day).with_context(|| format!("no day: {day:?}"))?;
            match self.answer(self.store.head(&Path::from(path))).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => {
                    return Ok(Position { next: Some(first), pinned_last: Some(manifest.last) });
                }
                Err(error) => return Err(error).context("look for a file of the last cut"),
            }
        }
        Ok(Position { next: Some(manifest.last + 1), pinned_last: None })
    }

    /// Writes the manifest, then the files. After a failure all of it can be tried again.
    ///
    /// Guarantee: nothing that stands is ever overwritten, so whoever writes a cut, and however often, it is
    /// there once.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn write(&self, cut: &Cut, files: &Files) -> Result<(), Error> {
        let manifest = serde_json::to_vec(&files.manifest).context("encode a manifest")?;
        if !self.create(&cut.manifest_path(), manifest.into()).await? {
            // Ours, when an answer was lost or a crash came between; or another instance's.
            let standing = self.manifest(cut).await?;
            if standing.last != cut.last {
                return Err(Error::Outrun);
            }
        }
        for (path, content) in &files.files {
            self.create(path, content.clone()).await?;
        }
        Ok(())
    }

    /// Waits for an answer of the store, but not for ever.
    async fn answer<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let answer = tokio::time::timeout(self.call_max, call).await;
        answer.unwrap_or_else(|elapsed| {
            Err(object_store::Error::Generic { store: "no answer", source: Box::new(elapsed) })
        })
    }

    async fn manifest(&self, cut: &Cut) -> anyhow::Result<Manifest> {
        let path = cut.manifest_path();
        let name = Path::from(path.as_str());
        let read = async { self.store.get(&name).await?.bytes().await };
        let text = self.answer(read).await.context("read a manifest")?;
        serde_json::from_slice(&text).with_context(|| format!("{path} is no manifest"))
    }

    /// Creates an object whole, or returns false when it stands already.
    async fn create(&self, path: &str, content: Bytes) -> anyhow::Result<bool> {
        let (name, payload) = (Path::from(path), PutPayload::from_bytes(content));
        let created = if self.drafts {
            let draft = Path::from(format!("{DRAFTS}/{}", Uuid::new_v4()));
            self.answer(self.store.put(&draft, payload)).await.with_context(|| format!("draft {path}"))?;
            let linked = self.answer(self.store.copy_if_not_exists(&draft, &name)).await;
            self.answer(self.store.delete(&draft)).await.context("remove a draft")?;
            linked
        } else {
            self.answer(self.store.put_opts(&name, payload, PutMode::Create.into())).await.map(|_| ())
        };
        match created {
            Ok(()) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("create {path}")),
        }
    }
}

fn bucket(s3: &S3, answer_max: Duration) -> anyhow::Result<impl ObjectStore> {
    let options = ClientOptions::new().with_timeout(answer_max);
    let retry = RetryConfig {
        max_retries: CLIENT_RETRIES_MAX as usize,
        retry_timeout: answer_max,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_client_options(options)
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(&s3.bucket);
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some((id, secret)) = &s3.credentials {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
    }
    // The settings have made sure that plain text stays on this host.
    let is_plain = s3.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    builder.with_allow_http(is_plain).build().context("open the lake's bucket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_hangs_is_given_up() {
        let folder = Location::Folder(std::env::temp_dir());
        let lake = Lake::open(&folder, Duration::from_millis(1)).unwrap();
        let error = lake.answer(std::future::pending::<object_store::Result<()>>()).await.unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
    }
}

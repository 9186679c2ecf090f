//! What the spool's thread does about a disk that fails: it closes the file, reads it again as the disk has
//! it, and tries from time to time whether it takes writes. Reads go on meanwhile, as far as the disk allows.

use super::super::Error;
use super::super::store::{Contents, FILE, Store};
use super::Worker;
use chassis::retry::Backoff;
use redb::{DatabaseError, StorageBackend};
use std::fs::{self, File};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A file longer than this is made anew when it is empty: redb gives freed pages back to itself, not to the
/// disk.
const EMPTY_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The first wait while the disk fails.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// The longest: each try reads the whole file.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The disk takes no writes.
pub(super) struct Failing {
    pub(super) error: Error,
    /// Bytes of the largest write that failed. A disk with room for less would only be found to fail again,
    /// and whoever published meanwhile would be sent away.
    bytes: usize,
    backoff: Backoff,
    pub(super) retry_at: Instant,
}

impl<D, F> Worker<F>
where
    D: StorageBackend,
    F: Fn(File) -> Result<D, DatabaseError>,
{
    /// Closes the file and opens it again for reading, as the disk has it; a write of `bytes` is tried
    /// again later.
    pub(super) fn fail(&mut self, error: &redb::Error, bytes: usize) -> Error {
        let kind = match error {
            redb::Error::Io(error) => error.kind(),
            _ => io::ErrorKind::Other,
        };
        if self.failing.is_none() {
            tracing::error!(%error, dir = %self.dir.display(), "the spool's disk fails; it takes no records");
        }
        let (mut backoff, failed_bytes) =
            self.failing.take().map_or((Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX), 0), |failing| {
                (failing.backoff, failing.bytes)
            });
        let retry_at = Instant::now() + backoff.next_wait();
        let bytes = bytes.max(failed_bytes);
        self.failing = Some(Failing { error: Error::Failing(kind), bytes, backoff, retry_at });
        // A file that cannot be opened now is tried again with the writes.
        let _ = self.reopen();
        self.publish_status();
        Error::Failing(kind)
    }

    /// Looks whether a failing disk takes writes again, when it is time.
    pub(super) fn retry(&mut self) {
        let due = self.failing.as_ref().filter(|failing| failing.retry_at <= Instant::now());
        let Some(bytes) = due.map(|failing| failing.bytes) else { return };
        let reopened = if self.store.is_some() { Ok(()) } else { self.reopen() };
        let outcome = reopened.and_then(|()| self.store.as_ref().map_or(Ok(()), |store| store.probe(bytes)));
        match outcome {
            Ok(()) => {
                tracing::info!(dir = %self.dir.display(), "the spool's disk works again");
                self.failing = None;
                self.publish_status();
            }
            Err(error) => drop(self.fail(&error, bytes)),
        }
    }

    fn reopen(&mut self) -> Result<(), redb::Error> {
        self.store = None;
        let (store, contents) = Store::open(&self.dir, &self.disk)?;
        self.store = Some(store);
        let removed_through = self.shared.state.lock().sensors.removed_through();
        if contents.span.is_some_and(|(_, last)| last <= removed_through) {
            // Needs no room first, as the removals do.
            return self.make_anew();
        }
        self.adopt(contents);
        Ok(())
    }

    /// Gives the disk back what the file, now empty, does not need.
    pub(super) fn shorten(&mut self) -> Result<(), redb::Error> {
        match &self.store {
            Some(store) if store.file_bytes()? > EMPTY_FILE_BYTES_MAX => self.make_anew(),
            _ => Ok(()),
        }
    }

    /// Replaces the file, whose records are all removed, by an empty one; a full disk has its room first.
    fn make_anew(&mut self) -> Result<(), redb::Error> {
        self.store = None;
        fs::remove_file(self.dir.join(FILE))?;
        let (store, contents) = Store::open(&self.dir, &self.disk)?;
        self.store = Some(store);
        self.adopt(contents);
        Ok(())
    }

    /// Goes on from what the file holds.
    pub(super) fn adopt(&mut self, contents: Contents) {
        let mut state = self.shared.state.lock();
        state.stored = contents.total;
        if let Some((first, last)) = contents.span {
            state.next = state.next.max(last + 1);
            self.removed_through = self.removed_through.max(first - 1);
            self.shared
                .status
                .send_modify(|status| status.durable_through = status.durable_through.max(last));
        }
        for (sensor_id, seq) in contents.sensors {
            state.sensors.note(sensor_id, seq);
            self.shared.has_sensors.store(true, Ordering::Release);
        }
        drop(state);
        self.publish_status();
    }
}

//! Records on disk while Kafka does not take them. Durable when [`Spool::append`] returns; read back in the
//! order of appending.
//!
//! In:         [`Record`]s, from any thread.
//! Out:        the same, by [`Spool::read`], until [`Spool::remove_through`].
//! Guarantee:  what was acknowledged survives kill -9 and power loss until it is removed. A torn tail is what
//!             was never acknowledged, and is cut off. A record may come back after its removal: removals are
//!             written with the next group, so a crash between Kafka's acknowledgement and the removal
//!             forwards it twice. Event ids are deterministic, so that adds no row and no alert. An append
//!             that failed may come back too: it was not acknowledged, not undone.
//! On failure: full → [`Error::Full`] until there is room. Disk fails → [`Error::Failing`], while the spool
//!             tries again by itself. Neither discards anything. Damaged file → [`OpenError::Damaged`]:
//!             nobody but an operator moves it.
//!
//! One thread owns the file (redb: copy-on-write, every page under a checksum; ADR 0008). It takes all
//! appends that wait and writes them as one group in one transaction, so the slower the disk, the larger the
//! group.

mod record;
mod sensors;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use record::Record;
use sensors::Sensors;
pub use status::{Error, Health, OpenError, Refused, Status};
use store::Total;
use worker::{Append, Command, Worker};

/// Number of a record, from 1, in the order of appending; gaps are appends that failed. It means nothing
/// after a restart.
pub type Seq = u64;

/// Called with an append's numbers when it is durable, or with why it is not; on the spool's thread, so it
/// must not block. Dropped uncalled when the spool is closed first: then it is not durable.
pub type Done = Box<dyn FnOnce(Result<RangeInclusive<Seq>, Error>) + Send>;

/// Bytes of one record: above what Kafka takes by default (1 MiB), with headers.
pub const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes that wait to be written: two groups, one being written and one forming. More → [`Error::Busy`].
pub const QUEUE_BYTES_MAX: u64 = 2 * GROUP_BYTES_MAX;
/// Appends that wait to be written; small ones reach this bound first.
pub const QUEUE_APPENDS_MAX: usize = 8192;
/// Bytes of one group, unless its first append alone is larger: written in tens of milliseconds.
const GROUP_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes that one read returns, but for the last record.
const READ_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A full spool takes records again when this share of it is in use: readiness does not flap with each
/// removal.
const ROOM_PERCENT: u64 = 90;

/// How much the spool may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The sum of [`Record::bytes`] of what is stored or waits: what they take of the disk, to a few per
    /// cent, and up to two groups more while one is rewritten. The file is longer, but the rest is holes.
    pub bytes_max: u64,
}

/// The spool of one directory. Cloning is cheap; the file is closed when the last clone is gone.
#[derive(Clone)]
pub struct Spool {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
}

/// What callers and the thread share.
struct Shared {
    dir: PathBuf,
    limits: Limits,
    state: Mutex<State>,
    /// Whether there is any sensor: spares the lock while nothing is spooled.
    has_sensors: AtomicBool,
    status: watch::Sender<Status>,
    /// Steps that the thread has begun or ended: odd while one is under way.
    steps: AtomicU64,
    /// Told when less waits than before.
    room: Notify,
    /// Cancelled when the thread has panicked: nothing is written any more, and only a restart helps.
    broken: CancellationToken,
}

/// Lock order: this, then the status.
#[derive(Default)]
struct State {
    next: Seq,
    waiting_bytes: u64,
    stored: Total,
    sensors: Sensors,
}

impl Shared {
    fn check_room(&self, state: &State, bytes: u64) -> Result<(), Error> {
        if state.stored.bytes + state.waiting_bytes + bytes > self.limits.bytes_max {
            self.set_full();
            return Err(Error::Full);
        }
        if state.waiting_bytes > 0 && state.waiting_bytes + bytes > QUEUE_BYTES_MAX {
            return Err(Error::Busy);
        }
        Ok(())
    }

    fn set_full(&self) {
        self.status.send_if_modified(|status| {
            let was_ready = status.health == Health::Ready;
            if was_ready {
                status.health = Health::Full;
            }
            was_ready
        });
    }
}

impl Spool {
    /// Opens the spool in `dir`, which is made if need be. Reads all of it, more than once: seconds for each
    /// gigabyte.
    ///
    /// # Errors
    /// Stop: see [`OpenError`].
    pub async fn open(dir: &Path, limits: Limits) -> Result<Self, OpenError> {
        Self::open_on(dir, limits, FileBackend::new).await
    }

    async fn open_on<D: StorageBackend>(
        dir: &Path,
        limits: Limits,
        disk: impl Fn(File) -> Result<D, DatabaseError> + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (commands, queue) = sync_channel(QUEUE_APPENDS_MAX);
        let (opened, outcome) = oneshot::channel();
        let dir_of_thread = dir.to_owned();
        let run = move || match Worker::open(dir_of_thread, limits, disk, queue) {
            Ok(worker) => {
                let _ = opened.send(Ok(worker.shared()));
                worker.run();
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let gone = |error| OpenError::Io(dir.to_owned(), error);
        std::thread::Builder::new().name("spool".into()).spawn(run).map_err(gone)?;
        let shared = outcome.await.map_err(|_| gone(io::Error::other("its thread panicked")))??;
        Ok(Self { commands, shared })
    }

    /// Appends records, in order and all or none; waits while the queue is full.
    ///
    /// Guarantee: they are on disk when this returns their numbers.
    ///
    /// # Errors
    /// As [`Error`] says; never [`Error::Busy`].
    pub async fn append(&self, mut records: Vec<Record>) -> Result<RangeInclusive<Seq>, Error> {
        let (reply, outcome) = oneshot::channel();
        let mut done: Done = Box::new(move |outcome| drop(reply.send(outcome)));
        loop {
            let mut room = pin!(self.shared.room.notified());
            room.as_mut().enable();
            match self.submit(records, done) {
                Ok(()) => return outcome.await.unwrap_or(Err(CLOSED)),
                Err(Refused { why: Error::Busy, records: again, done: same }) => {
                    (records, done) = (again, same);
                }
                Err(refused) => return Err(refused.why),
            }
            room.await;
        }
    }

    /// Queues an append and calls `done` when it is durable or has failed. Never blocks; made for delivery
    /// reports.
    ///
    /// [`Spool::holds`] is true of its sensors from now on.
    ///
    /// # Errors
    /// [`Refused`] gives records and `done` back.
    pub fn submit(&self, records: Vec<Record>, done: Done) -> Result<(), Refused> {
        let refuse = |why, records, done| Err(Refused { why, records, done });
        let bytes: u64 = records.iter().map(Record::bytes).sum();
        let is_too_large = |record: &Record| record.bytes() > RECORD_BYTES_MAX;
        if records.iter().any(is_too_large) || bytes > self.shared.limits.bytes_max {
            return refuse(Error::TooLarge, records, done);
        }
        if self.status().health == Health::Failing {
            return refuse(CLOSED, records, done);
        }
        let mut state = self.shared.state.lock();
        if let Err(why) = self.shared.check_room(&state, bytes) {
            return refuse(why, records, done);
        }
        let sensor_ids: Vec<_> = records.iter().map(|record| record.sensor_id.clone()).collect();
        // Under the lock, so that numbers are in the order of the queue.
        match self.commands.try_send(Command::Append(Append { first: state.next, bytes, records, done })) {
            Ok(()) => {}
            Err(TrySendError::Full(Command::Append(append))) => {
                return refuse(Error::Busy, append.records, append.done);
            }
            Err(TrySendError::Disconnected(Command::Append(append))) => {
                return refuse(CLOSED, append.records, append.done);
            }
            Err(_) => unreachable!("what was sent comes back"),
        }
        state.waiting_bytes += bytes;
        for sensor_id in sensor_ids {
            let seq = state.next;
            state.sensors.note(sensor_id, seq);
            state.next += 1;
        }
        self.shared.has_sensors.store(true, Ordering::Release);
        Ok(())
    }

    /// Tells whether [`Spool::submit`] would take a record of that many [`Record::bytes`] now, before it is
    /// made.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.status().health != Health::Failing
            && self.shared.check_room(&self.shared.state.lock(), bytes).is_ok()
    }

    /// Reads durable records from `from` on that are not removed, in order: at most `records_max`, fewer when
    /// they are large. Empty: there are none yet, see [`Spool::wait_for`].
    ///
    /// # Errors
    /// [`Error::Failing`] (retry).
    pub async fn read(&self, from: Seq, records_max: usize) -> Result<Vec<(Seq, Record)>, Error> {
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Read { from, records_max, reply }).await?;
        outcome.await.unwrap_or(Err(CLOSED))
    }

    /// Waits until a record with this number or a later one is durable.
    pub async fn wait_for(&self, seq: Seq) {
        let is_there = |status: &Status| status.durable_through >= seq;
        // The sender lives as long as this spool.
        let _ = self.shared.status.subscribe().wait_for(is_there).await;
    }

    /// Forgets the records up to this one: Kafka has them. Their room is free when the next group is written,
    /// at once when idle.
    pub fn remove_through(&self, seq: Seq) {
        self.shared.state.lock().sensors.remove_through(seq);
        // A full queue: the thread is busy and will see it.
        let _ = self.commands.try_send(Command::Remove);
    }

    /// Says whether a sensor has records here, stored or waiting: then its next one must queue behind them.
    pub fn holds(&self, sensor_id: &str) -> bool {
        self.shared.has_sensors.load(Ordering::Acquire) && self.shared.state.lock().sensors.holds(sensor_id)
    }

    /// Returns its directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Returns how the spool is now.
    pub fn status(&self) -> Status {
        *self.shared.status.borrow()
    }

    /// Follows how the spool is.
    pub fn statuses(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Returns how many steps the thread has begun or ended; odd while one is under way. A disk that does not
    /// answer holds it there.
    pub fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::Relaxed)
    }

    /// Resolves when the spool's thread has panicked.
    pub async fn broken(&self) {
        self.shared.broken.cancelled().await;
    }

    /// Writes what waits, then closes the file. Later calls of any clone fail.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.send(Command::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn send(&self, mut command: Command) -> Result<(), Error> {
        loop {
            let mut room = pin!(self.shared.room.notified());
            room.as_mut().enable();
            match self.commands.try_send(command) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(same)) => command = same,
                Err(TrySendError::Disconnected(_)) => return Err(CLOSED),
            }
            room.await;
        }
    }
}

/// The thread has ended.
const CLOSED: Error = Error::Failing(io::ErrorKind::NotConnected);

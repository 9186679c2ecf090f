//! The thread that owns the file: groups appends and writes removals.

mod failing;

use super::store::{Store, Total, is_damage};
use super::{Done, Error, GROUP_BYTES_MAX, Health, Limits, OpenError, READ_BYTES_MAX, ROOM_PERCENT, Record};
use super::{Seq, Shared, State, Status};
use crate::durable::private;
use failing::Failing;
use parking_lot::Mutex;
use redb::{DatabaseError, StorageBackend};
use std::fs::{File, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Locked as long as the spool is open, so that no second process makes or replaces the file.
const LOCK_FILE: &str = "spool.lock";
/// Numbers removed by one transaction: some ten milliseconds, for which appends wait.
const REMOVED_RECORDS_MAX: u64 = 10_000;

/// What the thread is asked.
pub(super) enum Command {
    Append(Append),
    Read {
        from: Seq,
        records_max: usize,
        reply: oneshot::Sender<Result<Vec<(Seq, Record)>, Error>>,
    },
    /// There is something to remove.
    Remove,
    Close(oneshot::Sender<()>),
}

/// Records with the numbers from `first` on.
pub(super) struct Append {
    pub(super) first: Seq,
    pub(super) bytes: u64,
    pub(super) records: Vec<Record>,
    pub(super) done: Done,
}

impl Append {
    fn numbers(&self) -> RangeInclusive<Seq> {
        self.first..=self.first + self.records.len() as u64 - 1
    }
}

/// The state of the thread.
pub(super) struct Worker<F> {
    dir: PathBuf,
    disk: F,
    _lock: File,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    /// None while the file cannot be read.
    store: Option<Store>,
    /// Removals up to this number are written.
    removed_through: Seq,
    failing: Option<Failing>,
}

impl<D, F> Worker<F>
where
    D: StorageBackend,
    F: Fn(File) -> Result<D, DatabaseError>,
{
    /// Takes the directory and opens its file.
    pub(super) fn open(
        dir: PathBuf,
        limits: Limits,
        disk: F,
        commands: Receiver<Command>,
    ) -> Result<Self, OpenError> {
        let lock = lock(&dir)?;
        let (store, contents) = Store::open(&dir, &disk).map_err(|error| match error {
            error if is_damage(&error) => OpenError::Damaged(dir.clone(), Box::new(error)),
            redb::Error::Io(error) => OpenError::Io(dir.clone(), error),
            error => OpenError::Io(dir.clone(), io::Error::other(error)),
        })?;
        let status = Status { health: Health::Ready, records: 0, bytes: 0, durable_through: 0 };
        let shared = Arc::new(Shared {
            dir: dir.clone(),
            limits,
            state: Mutex::new(State { next: 1, ..State::default() }),
            has_sensors: AtomicBool::new(false),
            status: watch::Sender::new(status),
            steps: AtomicU64::new(0),
            room: Notify::new(),
            broken: CancellationToken::new(),
        });
        let mut worker = Self {
            dir,
            disk,
            _lock: lock,
            commands,
            shared,
            store: Some(store),
            removed_through: 0,
            failing: None,
        };
        worker.adopt(contents);
        Ok(worker)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Serves commands until the last spool is gone or one closes it.
    pub(super) fn run(mut self) {
        let mut next = None;
        loop {
            let command = match next.take() {
                Some(command) => command,
                None => match self.wait() {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => Command::Remove,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            match command {
                Command::Append(first) => next = self.append(first),
                Command::Read { from, records_max, reply } => {
                    // The caller may be gone.
                    let _ = reply.send(self.read(from, records_max));
                }
                Command::Remove => self.remove(),
                Command::Close(reply) => {
                    self.close();
                    // With its lock, so that the directory is free when the caller hears of it.
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
            self.retry();
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            self.shared.room.notify_waiters();
        }
        self.close();
    }

    /// Waits for a command, but no longer than until there is something to do without one.
    fn wait(&self) -> Result<Command, RecvTimeoutError> {
        match &self.failing {
            Some(failing) => {
                self.commands.recv_timeout(failing.retry_at.saturating_duration_since(Instant::now()))
            }
            None if self.owes_removal() => self.commands.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Writes an append together with those that wait behind it; returns the command that ended the group.
    fn append(&mut self, first: Append) -> Option<Command> {
        let (mut bytes, mut group, mut next) = (first.bytes, vec![first], None);
        while bytes < GROUP_BYTES_MAX {
            match self.commands.try_recv() {
                Ok(Command::Append(append)) => {
                    bytes += append.bytes;
                    group.push(append);
                }
                Ok(command) => {
                    next = Some(command);
                    break;
                }
                Err(_) => break,
            }
        }
        let outcome = self.write(&group);
        self.shared.state.lock().waiting_bytes -= bytes;
        self.publish_status();
        for append in group {
            let numbers = append.numbers();
            (append.done)(outcome.map(|()| numbers));
        }
        next
    }

    /// Writes removals with nothing else.
    fn remove(&mut self) {
        if self.failing.is_none() && self.owes_removal() {
            // Its failure is told to those who append.
            let _ = self.write(&[]);
            self.publish_status();
        }
    }

    fn owes_removal(&self) -> bool {
        self.shared.state.lock().sensors.removed_through() > self.removed_through
    }

    /// Writes appends, and removals that are owed, in one transaction.
    fn write(&mut self, group: &[Append]) -> Result<(), Error> {
        if let Some(failing) = &self.failing {
            return Err(failing.error);
        }
        let Some(store) = &self.store else { return Err(super::CLOSED) };
        let asked_through = self.shared.state.lock().sensors.removed_through();
        let through = asked_through.min(self.removed_through + REMOVED_RECORDS_MAX);
        let numbered = group.iter().flat_map(|append| append.numbers().zip(&append.records));
        let bytes = group.iter().map(|append| append.bytes).sum::<u64>();
        let bytes = usize::try_from(bytes).expect("what is in memory can be counted");
        let removed = store.commit(through, numbered).map_err(|error| self.fail(&error, bytes))?;
        self.removed_through = through;
        let mut state = self.shared.state.lock();
        state.stored.records -= removed.records;
        state.stored.bytes -= removed.bytes;
        for append in group {
            state.stored.records += append.records.len() as u64;
            state.stored.bytes += append.bytes;
        }
        let (is_empty, last) =
            (state.stored.records == 0, group.last().map(|append| *append.numbers().end()));
        drop(state);
        if let Some(last) = last {
            self.shared.status.send_modify(|status| status.durable_through = last);
        }
        if is_empty {
            self.shorten().map_err(|error| self.fail(&error, 0))?;
        }
        Ok(())
    }

    fn read(&mut self, from: Seq, records_max: usize) -> Result<Vec<(Seq, Record)>, Error> {
        let failing = self.failing.as_ref().map_or(super::CLOSED, |failing| failing.error);
        let store = self.store.as_ref().ok_or(failing)?;
        let from = from.max(self.shared.state.lock().sensors.removed_through() + 1);
        store.read(from, records_max, READ_BYTES_MAX).map_err(|error| self.fail(&error, 0))
    }

    fn publish_status(&self) {
        let mut state = self.shared.state.lock();
        if state.stored == Total::default() && state.waiting_bytes == 0 {
            state.sensors.clear();
            self.shared.has_sensors.store(false, Ordering::Release);
        }
        let used = state.stored.bytes + state.waiting_bytes;
        let has_room = used <= self.shared.limits.bytes_max / 100 * ROOM_PERCENT;
        self.shared.status.send_modify(|status| {
            status.records = state.stored.records;
            status.bytes = state.stored.bytes;
            status.health = match status.health {
                _ if self.failing.is_some() => Health::Failing,
                Health::Full if !has_room => Health::Full,
                _ => Health::Ready,
            };
        });
    }

    /// Writes the removals that are owed; what is not written is only forwarded again.
    fn close(&mut self) {
        while self.failing.is_none() && self.owes_removal() {
            self.remove();
        }
        self.store = None;
    }
}

impl<F> Drop for Worker<F> {
    /// Tells of the end of the thread: nobody waits for it and readiness shows it; a panic ends the process.
    fn drop(&mut self) {
        self.shared.status.send_modify(|status| status.health = Health::Failing);
        self.shared.room.notify_waiters();
        if std::thread::panicking() {
            self.shared.broken.cancel();
        }
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io(dir.to_owned(), error);
    private::create_dir(dir).map_err(io)?;
    let file = private::file().create(true).append(true).open(dir.join(LOCK_FILE)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

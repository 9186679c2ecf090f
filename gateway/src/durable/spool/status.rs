//! What the spool says to its callers.

use super::{Done, Record, Seq};
use std::io;
use std::path::PathBuf;

/// Why records were not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room until records are removed (retry; read nothing more meanwhile).
    #[error("the spool is full")]
    Full,
    /// Too much waits for the disk (retry in a moment). Only [`Spool::submit`](super::Spool::submit) says so.
    #[error("too much waits for the spool's disk")]
    Busy,
    /// The disk fails, or the spool is closed (retry when [`Status::health`] says so).
    #[error("the spool's disk fails: {0}")]
    Failing(io::ErrorKind),
    /// A record is larger than [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX), or an append than the whole
    /// spool (refuse it: it will never fit).
    #[error("a record is larger than the spool takes")]
    TooLarge,
}

/// Why a spool cannot be opened (stop).
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process uses the spool in {0}")]
    InUse(PathBuf),
    /// The file is not what was written. It stays where it is, with what can still be read of it.
    #[error("the spool in {0} is damaged; move its file away to start without what it holds")]
    Damaged(PathBuf, #[source] Box<redb::Error>),
    /// The disk fails.
    #[error("the spool in {0} cannot be read or written")]
    Io(PathBuf, #[source] io::Error),
}

/// Records that were not taken, given back.
pub struct Refused {
    /// Why.
    pub why: Error,
    /// The records.
    pub records: Vec<Record>,
    /// Not called.
    pub done: Done,
}

/// Whether the spool takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// It has refused some for want of room, and not yet much room again.
    Full,
    /// The disk fails; tried again from time to time.
    Failing,
}

/// How the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes records.
    pub health: Health,
    /// Records stored; those removed are counted until the removal is written.
    pub records: u64,
    /// Bytes that they take of [`Limits::bytes_max`](super::Limits::bytes_max).
    pub bytes: u64,
    /// The last record that is durable; 0 when none ever was.
    pub durable_through: Seq,
}

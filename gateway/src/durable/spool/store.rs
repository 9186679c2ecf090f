//! Records in one redb file, by sequence number. Blocking: the spool's own thread alone uses it.
//!
//! The file is made under another name and renamed when it is whole, so what stands under its own name was
//! whole once. Opening reads from the disk, not from the page cache: after a failed fsync the cache shows
//! what the disk never got.

use super::Seq;
use super::record::{Record, disk_bytes};
use crate::durable::private;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::{
    Builder, Database, DatabaseError, Error, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The encoded records; the name says which encoding.
const RECORDS: TableDefinition<'_, Seq, &[u8]> = TableDefinition::new("records/1");
/// What [`Store::probe`] writes.
const PROBES: TableDefinition<'_, (), &[u8]> = TableDefinition::new("probes/1");
/// Bytes of the smallest probe: several pages, so that a disk without room refuses it.
const PROBE_BYTES_MIN: usize = 64 * 1024;
/// Pages that redb keeps in memory: a group and the path to it. Its own default is 1 GiB.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The file in the spool's directory.
pub(super) const FILE: &str = "spool.redb";
const FILE_IN_THE_MAKING: &str = "spool.redb.new";

/// An open file.
pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

/// What a file held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) total: Total,
    /// The first and the last record.
    pub(super) span: Option<(Seq, Seq)>,
    /// Each sensor's last record.
    pub(super) sensors: HashMap<Arc<str>, Seq>,
}

/// A number of records and what they take of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Total {
    fn add(&mut self, encoded: &[u8]) {
        self.records += 1;
        self.bytes += disk_bytes(encoded.len());
    }
}

impl Store {
    /// Opens the directory's file, or makes an empty one; `disk` is what redb reads and writes.
    ///
    /// Guarantee: every page was read back from the disk and fits its checksum; a commit that the disk has
    /// only in part is cut off.
    pub(super) fn open<D: StorageBackend>(
        dir: &Path,
        disk: &impl Fn(File) -> Result<D, DatabaseError>,
    ) -> Result<(Self, Contents), Error> {
        let path = dir.join(FILE);
        if !path.try_exists()? {
            Self::make(dir, disk)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        // redb trusts what it wrote itself when it closed the file, and panics when that is not what it
        // reads.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let was_repaired = Rc::new(Cell::new(false));
            let mut database = database(file, disk, was_repaired.clone())?;
            // A repair, after a crash, has looked at every page already.
            if !was_repaired.get() {
                database.check_integrity()?;
            }
            let store = Self { database, path };
            let contents = store.contents()?;
            Ok((store, contents))
        }));
        opened.unwrap_or_else(|_| Err(Error::Corrupted("its pages make no sense".into())))
    }

    /// Makes an empty file in the place of any other. A crash leaves the one or the other.
    pub(super) fn make<D: StorageBackend>(
        dir: &Path,
        disk: &impl Fn(File) -> Result<D, DatabaseError>,
    ) -> Result<(), Error> {
        let path = dir.join(FILE_IN_THE_MAKING);
        let file = private::file().read(true).write(true).create(true).truncate(true).open(&path)?;
        let database = database(file, disk, Rc::default())?;
        let transaction = begin(&database)?;
        transaction.open_table(RECORDS)?;
        transaction.commit()?;
        drop(database);
        File::open(&path)?.sync_all()?;
        fs::rename(&path, dir.join(FILE))?;
        Ok(File::open(dir)?.sync_all()?)
    }

    fn contents(&self) -> Result<Contents, Error> {
        let mut contents = Contents::default();
        for record in self.database.begin_read()?.open_table(RECORDS)?.iter()? {
            let (seq, value) = record?;
            let (seq, value) = (seq.value(), value.value());
            let sensor_id = Record::sensor_id_of(value).ok_or_else(|| no_record(seq))?;
            match contents.sensors.get_mut(sensor_id) {
                Some(last) => *last = seq,
                None => drop(contents.sensors.insert(sensor_id.into(), seq)),
            }
            contents.total.add(value);
            contents.span = Some((contents.span.map_or(seq, |(first, _)| first), seq));
        }
        Ok(contents)
    }

    /// Removes the records up to `remove_through` and appends others, in one transaction; returns what was
    /// removed.
    pub(super) fn commit<'a>(
        &self,
        remove_through: Seq,
        append: impl IntoIterator<Item = (Seq, &'a Record)>,
    ) -> Result<Total, Error> {
        let (mut removed, mut encoded) = (Total::default(), Vec::new());
        let transaction = begin(&self.database)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            records.retain_in(..=remove_through, |_, value| {
                removed.add(value);
                false
            })?;
            for (seq, record) in append {
                encoded.clear();
                record.encode(&mut encoded);
                records.insert(seq, encoded.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(removed)
    }

    /// Reads records from `from` on, in order: at most `records_max`, and no more after `bytes_max` is
    /// reached.
    pub(super) fn read(
        &self,
        from: Seq,
        records_max: usize,
        bytes_max: u64,
    ) -> Result<Vec<(Seq, Record)>, Error> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in self.database.begin_read()?.open_table(RECORDS)?.range(from..)?.take(records_max) {
            let (seq, value) = record?;
            let (seq, value) = (seq.value(), value.value());
            records.push((seq, Record::decode(value).ok_or_else(|| no_record(seq))?));
            bytes += disk_bytes(value.len());
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    /// Writes `bytes`, or a few more, to see whether the disk takes them, and gives them back.
    pub(super) fn probe(&self, bytes: usize) -> Result<(), Error> {
        let content = vec![0; bytes.max(PROBE_BYTES_MIN)];
        let transaction = begin(&self.database)?;
        transaction.open_table(PROBES)?.insert((), content.as_slice())?;
        transaction.commit()?;
        let transaction = begin(&self.database)?;
        transaction.open_table(PROBES)?.remove(())?;
        Ok(transaction.commit()?)
    }

    /// Returns how long the file is; it may have holes.
    pub(super) fn file_bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }
}

/// Begins a transaction whose commit the disk has before the header points at it: two fsyncs.
///
/// With one, redb takes any commit whose pages do not fit their checksums for a torn one and goes back to the
/// one before it; with two, it knows that the last commit was whole once, and calls it damaged.
fn begin(database: &Database) -> Result<WriteTransaction, Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

/// Says whether the file is not what was written, which no second try will change.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        // A wrong magic number, or a file shorter than its own header says.
        Error::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        Error::PreviousIo | Error::DatabaseAlreadyOpen => false,
        _ => true,
    }
}

fn database<D: StorageBackend>(
    file: File,
    disk: &impl Fn(File) -> Result<D, DatabaseError>,
    was_repaired: Rc<Cell<bool>>,
) -> Result<Database, Error> {
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)?;
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_repair_callback(move |_| was_repaired.set(true));
    Ok(builder.create_with_backend(disk(file)?)?)
}

fn no_record(seq: Seq) -> Error {
    Error::Corrupted(format!("record {seq} is not readable"))
}

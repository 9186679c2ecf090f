//! A disk that loses power at any call: of what was not synced, each write is there, lost, torn or garbage.

use super::super::store::{FILE, Store};
use super::super::{Record, Seq};
use super::{open_store, record, stored};
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};
use std::fs::{self, File};
use std::io;
use std::sync::Arc;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// redb's header: it relies on whole sectors there, as every file system does.
const HEADER_BYTES: u64 = 4096;

/// Writes through to a real file and remembers what the disk may not have yet.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Tracked>>);

#[derive(Debug, Default)]
struct Tracked {
    synced: Vec<u8>,
    since: Vec<Change>,
    /// Calls that change the disk until the power goes; none: it stays.
    calls_left: Option<u32>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug)]
struct File_ {
    file: FileBackend,
    disk: Disk,
}

impl Disk {
    fn open(&self, mut file: File) -> Result<File_, DatabaseError> {
        let mut synced = Vec::new();
        io::Read::read_to_end(&mut file, &mut synced)?;
        *self.0.lock() = Tracked { synced, ..Tracked::default() };
        Ok(File_ { file: FileBackend::new(file)?, disk: self.clone() })
    }

    /// Returns what the disk has after the power was lost.
    fn image(&self, fates: &[u8]) -> Vec<u8> {
        let tracked = self.0.lock();
        let mut image = tracked.synced.clone();
        for (change, fate) in tracked.since.iter().zip(fates.iter().cycle()) {
            apply(&mut image, change, fate % 4);
        }
        image
    }
}

fn apply(image: &mut Vec<u8>, change: &Change, fate: u8) {
    match (change, fate) {
        (_, 0) => {}
        (Change::Length(length), _) => image.resize(usize::try_from(*length).unwrap(), 0),
        (Change::Write(offset, bytes), fate) => {
            let start = usize::try_from(*offset).unwrap();
            image.resize(image.len().max(start + bytes.len()), 0);
            let written = match fate {
                2 => (bytes.len() / 2).next_multiple_of(SECTOR_BYTES).min(bytes.len()),
                _ => bytes.len(),
            };
            image[start..start + written].copy_from_slice(&bytes[..written]);
            if fate == 3 && *offset >= HEADER_BYTES {
                image[start..start + written].fill(0xA5);
            }
        }
    }
}

impl File_ {
    fn change(&self, change: Option<Change>) -> io::Result<()> {
        let mut tracked = self.disk.0.lock();
        if let Some(left) = &mut tracked.calls_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the power is gone"))?;
        }
        match change {
            Some(change) => tracked.since.push(change),
            None => {
                for change in std::mem::take(&mut tracked.since) {
                    apply(&mut tracked.synced, &change, 1);
                }
            }
        }
        Ok(())
    }
}

impl StorageBackend for File_ {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Some(Change::Length(length)))?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(None)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Some(Change::Write(offset, bytes.to_vec())))?;
        self.file.write(offset, bytes)
    }
}

/// One step: a group with its removals, a clean restart, or a group during or after which the power goes.
#[derive(Clone, Debug)]
enum Step {
    Commit { removed: usize, payload_bytes: Vec<usize> },
    Reopen,
    PowerLoss { removed: usize, payload_bytes: Vec<usize>, calls: u32, fates: Vec<u8> },
}

fn any_step() -> impl Strategy<Value = Step> {
    // Up to half a megabyte, so that the file grows, from the megabytes that redb begins with, and shrinks.
    let payload_bytes = || prop_oneof![3 => 0..6000usize, 1 => 6000..200_000usize];
    let group = move || (0..20usize, vec(payload_bytes(), 0..9));
    prop_oneof![
        4 => group().prop_map(|(removed, payload_bytes)| Step::Commit { removed, payload_bytes }),
        1 => Just(Step::Reopen),
        3 => (group(), 0..40u32, vec(any::<u8>(), 1..30)).prop_map(|((removed, payload_bytes), calls, fates)| {
            Step::PowerLoss { removed, payload_bytes, calls, fates }
        }),
    ]
}

/// The store and what it must hold.
struct Run {
    dir: tempfile::TempDir,
    disk: Disk,
    store: Option<Store>,
    model: Vec<(Seq, Record)>,
    next: Seq,
}

impl Run {
    fn reopen(&mut self) {
        self.store = None;
        let (store, contents) = Store::open(self.dir.path(), &|file| self.disk.open(file)).unwrap();
        assert_eq!(contents.total.records, stored(&store).len() as u64);
        self.store = Some(store);
    }

    /// Returns what the store will hold, and whether it says that it does.
    fn commit(&mut self, removed: usize, payload_bytes: &[usize]) -> (Vec<(Seq, Record)>, bool) {
        let appended: Vec<_> = (self.next..)
            .zip(payload_bytes)
            .map(|(seq, bytes)| (seq, record(&format!("s{}", seq % 5), vec![seq.to_le_bytes()[0]; *bytes])))
            .collect();
        self.next += appended.len() as u64;
        let through = removed.checked_sub(1).map_or(0, |at| self.model.get(at).map_or(0, |(seq, _)| *seq));
        let outcome =
            self.store.as_ref().unwrap().commit(through, appended.iter().map(|(seq, record)| (*seq, record)));
        let after = self.model.iter().filter(|(seq, _)| *seq > through).cloned().chain(appended).collect();
        (after, outcome.is_ok())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { removed, payload_bytes } => {
                let (after, is_durable) = self.commit(*removed, payload_bytes);
                assert!(is_durable);
                self.model = after;
            }
            Step::Reopen => self.reopen(),
            Step::PowerLoss { removed, payload_bytes, calls, fates } => {
                self.disk.0.lock().calls_left = Some(*calls);
                let (after, is_durable) = self.commit(*removed, payload_bytes);
                let image = self.disk.image(fates);
                self.store = None;
                fs::write(self.dir.path().join(FILE), image).unwrap();
                self.reopen();
                let found = stored(self.store.as_ref().unwrap());
                assert!(found == after || (!is_durable && found == self.model), "neither before nor after");
                self.model = found;
                // Recovery that ran once changes nothing when it runs again.
                self.reopen();
            }
        }
        assert_eq!(stored(self.store.as_ref().unwrap()), self.model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn power_loss_at_any_call_leaves_a_group_whole_or_not_there_and_every_acknowledged_one_whole(
        steps in vec(any_step(), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run { dir, disk: Disk::default(), store: None, model: Vec::new(), next: 1 };
        run.reopen();
        for step in &steps {
            run.step(step);
        }
    }
}

#[test]
fn power_loss_while_the_file_is_made_leaves_none_or_a_whole_one() {
    for calls in 0..200 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let made = Store::make(dir.path(), &|file| {
            let file = disk.open(file);
            disk.0.lock().calls_left = Some(calls);
            file
        });
        assert_eq!(made.is_ok(), dir.path().join(FILE).exists());
        let (store, _) = open_store(dir.path()).unwrap();
        assert!(stored(&store).is_empty());
        if made.is_ok() {
            return;
        }
    }
    panic!("it is never made");
}

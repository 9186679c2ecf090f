//! A disk that refuses: by faults put between redb and a real file, and by the kernel's own limit on a file's
//! length.

use super::super::{Error, Health, Record, Seq, Spool, Status};
use super::{ROOMY, read_all, record};
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A state that does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Real files whose writes or syncs fail while told so; counts syncs.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Faults>);

#[derive(Debug, Default)]
struct Faults {
    refuses_writes: AtomicBool,
    refuses_syncs: AtomicBool,
    panics: AtomicBool,
    /// Held by whoever wants syncs to hang.
    hangs: parking_lot::Mutex<()>,
    syncs: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Faulty {
    file: FileBackend,
    disk: Disk,
}

impl Disk {
    pub(super) fn open(&self) -> impl Fn(File) -> Result<Faulty, DatabaseError> + Send + 'static {
        let disk = self.clone();
        move |file| Ok(Faulty { file: FileBackend::new(file)?, disk: disk.clone() })
    }

    pub(super) fn syncs(&self) -> usize {
        self.0.syncs.load(Ordering::Relaxed)
    }
}

impl Faulty {
    fn writable(&self) -> io::Result<()> {
        let refuses = self.disk.0.refuses_writes.load(Ordering::Relaxed);
        if refuses { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Once: the store, when it is dropped, syncs again.
        assert!(!self.disk.0.panics.swap(false, Ordering::Relaxed), "a mistake in the store");
        self.disk.0.syncs.fetch_add(1, Ordering::Relaxed);
        drop(self.disk.0.hangs.lock());
        if self.disk.0.refuses_syncs.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.file.write(offset, bytes)
    }
}

async fn until(spool: &Spool, health: Health) {
    let is_so = |status: &Status| status.health == health;
    timeout(PATIENCE, spool.statuses().wait_for(is_so)).await.unwrap().unwrap();
}

fn numbered(payload: u32) -> Vec<Record> {
    vec![record("s1", payload.to_le_bytes())]
}

fn payloads(all: &[(Seq, Record)]) -> Vec<u32> {
    all.iter().map(|(_, record)| u32::from_le_bytes(record.payload[..].try_into().unwrap())).collect()
}

/// Appends, lets the disk fail, looks at what is told and what is left, lets it work again.
async fn fails_and_recovers(fault: fn(&Faults) -> &AtomicBool, kind: io::ErrorKind) {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    let mut acknowledged: Vec<u32> = (0..10).collect();
    for n in 0..10 {
        spool.append(numbered(n)).await.unwrap();
    }
    fault(&disk.0).store(true, Ordering::Relaxed);
    assert_eq!(spool.append(numbered(10)).await, Err(Error::Failing(kind)));
    assert_eq!(spool.status().health, Health::Failing);
    assert!(matches!(spool.append(numbered(11)).await, Err(Error::Failing(_))));
    spool.remove_through(3);
    fault(&disk.0).store(false, Ordering::Relaxed);
    until(&spool, Health::Ready).await;
    spool.append(numbered(12)).await.unwrap();
    acknowledged.push(12);
    acknowledged.drain(..3);
    // 10 was not acknowledged; it may be there all the same, in its place.
    let mut found = payloads(&read_all(&spool).await);
    found.retain(|n| *n != 10);
    assert_eq!(found, acknowledged);
    assert!(spool.holds("s1"));
    spool.close().await;
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    let mut found = payloads(&read_all(&spool).await);
    found.retain(|n| *n != 10);
    assert_eq!(found, acknowledged);
}

#[tokio::test]
async fn disk_without_room_is_told_and_loses_nothing() {
    fails_and_recovers(|faults| &faults.refuses_writes, io::ErrorKind::StorageFull).await;
}

#[tokio::test]
async fn failing_fsync_is_told_and_loses_nothing() {
    fails_and_recovers(|faults| &faults.refuses_syncs, io::ErrorKind::TimedOut).await;
}

#[tokio::test]
async fn thread_that_hangs_in_the_disk_shows_a_step_that_does_not_end() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    assert_eq!(spool.steps(), 0);
    let held = disk.0.hangs.lock();
    let syncs = disk.syncs();
    let appending = spool.clone();
    let appending = std::thread::spawn(move || {
        let (told, outcome) = std::sync::mpsc::channel();
        assert!(appending.submit(numbered(1), Box::new(move |done| told.send(done).unwrap())).is_ok());
        outcome.recv().unwrap()
    });
    while disk.syncs() == syncs {
        std::thread::yield_now();
    }
    assert_eq!(spool.steps(), 1, "under way");
    drop(held);
    assert_eq!(appending.join().unwrap(), Ok(1..=1));
    spool.append(numbered(2)).await.unwrap();
    spool.close().await;
    assert!(spool.steps() >= 4, "each began and ended");
}

#[tokio::test]
async fn sensor_whose_only_append_failed_is_not_held() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(spool.append(numbered(1)).await.is_err());
    assert!(!spool.holds("s1"));
}

#[tokio::test]
async fn records_forwarded_while_the_disk_is_full_do_not_come_back_when_it_has_room() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    spool.append(numbered(1)).await.unwrap();
    disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(spool.append(numbered(2)).await.is_err());
    spool.remove_through(2);
    assert!(!spool.holds("s1"));
    disk.0.refuses_writes.store(false, Ordering::Relaxed);
    until(&spool, Health::Ready).await;
    assert!(read_all(&spool).await.is_empty());
    spool.append(numbered(3)).await.unwrap();
    assert_eq!(payloads(&read_all(&spool).await), [3]);
    spool.close().await;
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert_eq!(payloads(&read_all(&spool).await), [3]);
}

/// The directory that a child of this test uses.
const CHILD_DIR: &str = "SPOOL_TEST_LIMITED_DIR";

/// Appends until the file may not grow, and says what was acknowledged.
async fn append_until_it_fails(dir: &Path) {
    let spool = Spool::open(dir, ROOMY).await.unwrap();
    for n in 0..u32::MAX {
        let mut large = numbered(n);
        large[0].headers.push(("filler".into(), vec![0; 20_000]));
        match spool.append(large).await {
            Ok(_) => writeln!(io::stdout(), "acknowledged {n}").unwrap(),
            Err(error) => return writeln!(io::stdout(), "refused {error:?}").unwrap(),
        }
    }
}

#[tokio::test]
async fn file_that_the_kernel_lets_grow_no_more_is_told_and_loses_nothing() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return append_until_it_fails(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // 16 MiB in blocks of 512 bytes; without its signal, a write beyond fails with EFBIG.
    let limited = "trap '' XFSZ; ulimit -f 32768; exec \"$@\"";
    let test =
        "durable::spool::tests::failing::file_that_the_kernel_lets_grow_no_more_is_told_and_loses_nothing";
    let output = Command::new("sh")
        .args(["-c", limited, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let acknowledged: Vec<u32> =
        said.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).collect();
    assert!(said.contains("refused Failing(FileTooLarge)"), "{said}");
    assert!(acknowledged.len() > 10, "{said}");
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    let found = payloads(&read_all(&spool).await);
    assert_eq!(found[..acknowledged.len()], acknowledged);
}

#[tokio::test]
async fn panic_of_the_thread_is_told_to_whoever_ends_the_process() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    spool.append(vec![record("a", "before")]).await.unwrap();
    disk.0.panics.store(true, Ordering::Relaxed);
    assert!(spool.append(vec![record("a", "in vain")]).await.is_err());
    timeout(PATIENCE, spool.broken()).await.expect("it is told");
    assert_eq!(spool.status().health, Health::Failing);
    drop(spool);
    let reopen = async || Spool::open(dir.path(), ROOMY).await.ok();
    let again = testkit::wait::until("the thread gives its lock back", reopen).await;
    assert!(read_all(&again).await.contains(&(1, record("a", "before"))), "what was acknowledged is there");
}

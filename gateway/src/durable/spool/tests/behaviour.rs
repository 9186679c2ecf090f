//! What callers rely on, on real files.

use super::super::store::FILE;
use super::super::{Error, Health, Limits, RECORD_BYTES_MAX, Record, Refused, Seq, Spool};
use super::failing::Disk;
use super::{ROOMY, read_all, record};
use futures::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A state that does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn appended_records_come_back_in_order_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    let records: Vec<_> = (0..250u8).map(|n| record(&format!("s{}", n % 3), [n])).collect();
    assert_eq!(spool.append(records[..100].to_vec()).await, Ok(1..=100));
    assert_eq!(spool.append(records[100..].to_vec()).await, Ok(101..=250));
    let expected: Vec<_> = (1..).zip(records).collect();
    assert_eq!(read_all(&spool).await, expected);
    assert_eq!(spool.read(200, 3).await.unwrap(), expected[199..202]);
    spool.close().await;
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert_eq!(read_all(&spool).await, expected);
    assert_eq!(spool.append(vec![record("s1", [1])]).await, Ok(251..=251));
}

#[tokio::test]
async fn concurrent_appends_keep_each_sensors_order_and_share_their_fsyncs() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let spool = Spool::open_on(dir.path(), ROOMY, disk.open()).await.unwrap();
    let before = disk.syncs();
    let sensors = (0..40).map(|sensor| {
        let spool = spool.clone();
        async move {
            for n in 0..25u8 {
                spool.append(vec![record(&format!("s{sensor}"), [n])]).await.unwrap();
            }
        }
    });
    join_all(sensors).await;
    let fsyncs = disk.syncs() - before;
    assert!(fsyncs < 500, "{fsyncs} fsyncs for 1,000 appends");
    let all = read_all(&spool).await;
    assert_eq!(all.len(), 1000);
    for sensor in 0..40 {
        let of_sensor = all.iter().filter(|(_, record)| *record.sensor_id == *format!("s{sensor}"));
        assert!(of_sensor.map(|(_, record)| record.payload[0]).eq(0..25));
    }
}

#[tokio::test]
async fn sensor_is_held_from_its_submission_until_its_last_record_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert!(!spool.holds("s1"));
    spool.submit(vec![record("s1", [1]), record("s2", [2]), record("s1", [3])], Box::new(drop)).ok().unwrap();
    assert!(spool.holds("s1") && spool.holds("s2") && !spool.holds("s3"));
    spool.wait_for(3).await;
    spool.remove_through(2);
    assert!(spool.holds("s1") && !spool.holds("s2"));
    spool.close().await;
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert!(spool.holds("s1") && !spool.holds("s2"));
    spool.remove_through(3);
    assert!(!spool.holds("s1"));
}

#[tokio::test]
async fn full_spool_refuses_and_takes_records_again_when_some_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let one = record("s1", [0; 1000]);
    let spool = Spool::open(dir.path(), Limits { bytes_max: 10 * one.bytes() }).await.unwrap();
    for _ in 0..10 {
        spool.append(vec![one.clone()]).await.unwrap();
    }
    assert_eq!(spool.status().health, Health::Ready);
    assert_eq!(spool.append(vec![one.clone()]).await, Err(Error::Full));
    assert_eq!(spool.status().health, Health::Full);
    assert_eq!(read_all(&spool).await.len(), 10);
    spool.remove_through(2);
    let has_room = |status: &super::super::Status| status.health == Health::Ready;
    timeout(PATIENCE, spool.statuses().wait_for(has_room)).await.unwrap().unwrap();
    assert_eq!(spool.append(vec![one.clone()]).await, Ok(11..=11));
    assert_eq!(spool.append(vec![record("s1", [0; 20_000])]).await, Err(Error::TooLarge));
    spool.close().await;
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert_eq!(read_all(&spool).await.len(), 9);
    let too_large = record("s1", vec![0; usize::try_from(RECORD_BYTES_MAX).unwrap()]);
    assert_eq!(spool.append(vec![too_large]).await, Err(Error::TooLarge));
}

#[tokio::test]
async fn submissions_beyond_the_queue_are_given_back_and_appends_wait() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Limits { bytes_max: 1 << 30 }).await.unwrap();
    let (mut taken, done) = (0, Arc::new(AtomicUsize::new(0)));
    let large = record("s1", vec![0; 1 << 20]);
    let busy = loop {
        let done = done.clone();
        let count = move |outcome: Result<_, Error>| {
            done.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
        };
        match spool.submit(vec![large.clone()], Box::new(count)) {
            Ok(()) => taken += 1,
            Err(Refused { why, records, .. }) => break (why, records),
        }
    };
    assert_eq!(busy, (Error::Busy, vec![large.clone()]));
    let last = *timeout(PATIENCE, spool.append(vec![large])).await.unwrap().unwrap().end();
    assert_eq!((last, done.load(Ordering::Relaxed)), (taken as Seq + 1, taken));
}

#[tokio::test]
async fn emptied_file_gives_its_disk_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Limits { bytes_max: 1 << 30 }).await.unwrap();
    for _ in 0..20 {
        spool.append((0..8).map(|_| record("s1", vec![7; 500_000])).collect()).await.unwrap();
    }
    let length = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    assert!(length() > 80_000_000);
    spool.remove_through(160);
    timeout(PATIENCE, spool.statuses().wait_for(|status| status.records == 0)).await.unwrap().unwrap();
    assert_eq!(spool.append(vec![record("s1", [1])]).await, Ok(161..=161));
    assert!(length() < 8_000_000, "{} bytes", length());
    assert_eq!(read_all(&spool).await.len(), 1);
}

#[tokio::test]
async fn closed_spool_answers() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
    spool.clone().close().await;
    assert!(matches!(spool.append(vec![record("s1", [1])]).await, Err(Error::Failing(_))));
    assert!(matches!(spool.read(1, 1).await, Err(Error::Failing(_))));
    assert_eq!(spool.status().health, Health::Failing);
}

/// What a caller may do.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Remove(u64),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec(0..5u8, 0..30).prop_map(Step::Append),
        2 => (0..60u64).prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_use_is_as_of_a_list_in_memory(steps in vec(any_step(), 1..20)) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(dir.path(), ROOMY).await.unwrap();
            let mut model: Vec<(Seq, Record)> = Vec::new();
            for step in steps {
                match step {
                    Step::Append(sensors) => {
                        let records: Vec<_> = sensors.iter().map(|n| record(&format!("s{n}"), vec![*n; 700])).collect();
                        let numbers = spool.append(records.clone()).await.unwrap();
                        model.extend(numbers.zip(records));
                    }
                    Step::Remove(ahead) => {
                        let through = model.first().map_or(0, |(first, _)| first + ahead).min(model.last().map_or(0, |(last, _)| *last));
                        spool.remove_through(through);
                        model.retain(|(seq, _)| *seq > through);
                    }
                    Step::Reopen => {
                        spool.close().await;
                        spool = Spool::open(dir.path(), ROOMY).await.unwrap();
                    }
                }
                assert_eq!(read_all(&spool).await, model);
                for n in 0..5u8 {
                    let sensor_id = format!("s{n}");
                    assert_eq!(spool.holds(&sensor_id), model.iter().any(|(_, record)| *record.sensor_id == *sensor_id));
                }
            }
        });
    }
}

#[tokio::test]
async fn files_of_the_spool_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("spool");
    let spool = Spool::open(&folder, ROOMY).await.unwrap();
    spool.append(vec![record("a", "1")]).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "the records and the lock: {files:?}");
    for path in files.iter().chain([&folder]) {
        let rights = path.metadata().unwrap().permissions().mode();
        assert_eq!(rights & 0o077, 0, "{}: {rights:o}", path.display());
    }
}

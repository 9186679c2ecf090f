//! A file that is not what was written.

use super::super::store::{FILE, is_damage};
use super::super::{OpenError, Spool};
use super::{ROOMY, open_store, record, stored};
use proptest::prelude::*;
use std::fs;

const RECORDS: u64 = 300;

fn written(dir: &std::path::Path) {
    let (store, _) = open_store(dir).unwrap();
    for seq in 1..=RECORDS {
        store.commit(0, [(seq, &record("s1", vec![7; 400]))]).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_byte_is_found_or_does_not_matter(at in 0.0..1.0, flip in 1..=255u8, closed in any::<bool>()) {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, _) = open_store(dir.path()).unwrap();
        for group in 0..30 {
            let records: Vec<_> = (1..=10).map(|n| (group * 10 + n, record("s1", vec![7; 400]))).collect();
            store.commit(0, records.iter().map(|(seq, record)| (*seq, record))).unwrap();
        }
        let store = (!closed).then_some(store);
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        drop(store);
        // Most of the file is holes: half of the cases go to its first 200 KiB, where the records are.
        let reach = if flip % 2 == 0 { bytes.len() } else { bytes.len().min(200 * 1024) };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = (reach as f64 * at) as usize;
        bytes[at] ^= flip;
        fs::write(copy.path().join(FILE), bytes).unwrap();
        match open_store(copy.path()) {
            Ok((store, _)) => prop_assert_eq!(stored(&store).len(), 300),
            Err(error) => prop_assert!(is_damage(&error), "{:?}", error),
        }
    }
}

#[tokio::test]
async fn damaged_file_is_refused_and_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    // Every payload, wherever a page with it stands.
    for byte in bytes.iter_mut().filter(|byte| **byte == 7) {
        *byte = 8;
    }
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(Spool::open(dir.path(), ROOMY).await, Err(OpenError::Damaged(..))));
    assert!(path.exists());
}

#[tokio::test]
async fn cut_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join(FILE);
    let bytes = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes / 2).unwrap();
    assert!(matches!(Spool::open(dir.path(), ROOMY).await, Err(OpenError::Damaged(..))));
}

#[tokio::test]
async fn foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), b"not a spool").unwrap();
    assert!(matches!(Spool::open(dir.path(), ROOMY).await, Err(OpenError::Damaged(..))));
}

#[tokio::test]
async fn second_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::open(dir.path(), ROOMY).await.unwrap();
    assert!(matches!(Spool::open(dir.path(), ROOMY).await, Err(OpenError::InUse(_))));
    first.close().await;
    Spool::open(dir.path(), ROOMY).await.unwrap();
}

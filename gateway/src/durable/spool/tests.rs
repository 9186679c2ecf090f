//! The spool on real files, on a disk that loses power, and on a disk that fails.

mod behaviour;
mod damage;
mod failing;
mod killed;
mod power_loss;

use super::store::{Contents, Store};
use super::{Limits, Record, Seq, Spool};
use redb::backends::FileBackend;
use std::path::Path;

const ROOMY: Limits = Limits { bytes_max: 64 * 1024 * 1024 };

fn record(sensor_id: &str, payload: impl Into<Vec<u8>>) -> Record {
    Record {
        topic: "iot-reading-topic".into(),
        sensor_id: sensor_id.into(),
        headers: vec![("schema".into(), b"reading-created/1".to_vec())],
        payload: payload.into(),
    }
}

fn open_store(dir: &Path) -> Result<(Store, Contents), redb::Error> {
    Store::open(dir, &FileBackend::new)
}

fn stored(store: &Store) -> Vec<(Seq, Record)> {
    store.read(0, usize::MAX, u64::MAX).unwrap()
}

/// Reads everything, as a forwarder would.
async fn read_all(spool: &Spool) -> Vec<(Seq, Record)> {
    let (mut all, mut from) = (Vec::new(), 1);
    loop {
        let some = spool.read(from, 100).await.unwrap();
        let Some((last, _)) = some.last() else { return all };
        from = last + 1;
        all.extend(some);
    }
}

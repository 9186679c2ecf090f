//! Spooled records that Kafka refuses for good: acknowledged, so they must be somewhere, and in the way of
//! all behind them, so they must not stay.
//!
//! The dead letters come first, with the reason. What is refused there, too, becomes a file beside the spool,
//! for an operator. Neither loses the record, and only the file needs room on this disk: files are bounded,
//! and beyond the bound the spool waits.

use crate::durable::private;
use crate::durable::producer::Producer;
use crate::durable::record::letter_headers;
use crate::durable::report::Produced;
use crate::durable::spool::Record;
use rdkafka::error::KafkaError;
use schema::ReadingCreatedEvent;
use schema::dead_letter::{DeadLetter, Origin, RefusedFile};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The folder in the spool's.
const FOLDER: &str = "refused";
/// Files at a time: each is a decision that an operator owes, and at most some megabytes.
const FILES_MAX: usize = 1_000;
/// The reason in a dead letter's header.
const REASON: &str = "kafka-refused";

/// Keeps a record that Kafka refused when it came alone; false when that has to be tried again. `spool` is
/// its directory.
pub(super) async fn set_aside(
    producer: &Producer,
    spool: &Path,
    record: &Record,
    error: &KafkaError,
) -> bool {
    let kept = |place: &str| producer.metrics().spool.refused.with_label_values(&[place]).inc();
    let (topic, sensor_id) = (&*record.topic, &*record.sensor_id);
    let (dead_letters, letter) = (producer.dead_letters(), letter_of(record, producer.dead_letters(), error));
    if record.topic != *dead_letters {
        let aside = Record {
            topic: dead_letters.clone(),
            sensor_id: record.sensor_id.clone(),
            headers: letter_headers(&letter),
            payload: record.payload.clone(),
        };
        match producer.produce_all(&[(0, aside)]).await {
            Produced { stored: 1, .. } => {
                kept("dead-letter");
                tracing::warn!(topic, sensor_id, %error, "Kafka refuses a spooled record: it is a dead letter now");
                return true;
            }
            Produced { refusal: None, .. } => return false,
            Produced { refusal: Some(_), .. } => {}
        }
    }
    let (folder, name) = (spool.join(FOLDER), name(record));
    let file = RefusedFile::new(sensor_id, &letter, &record.payload);
    let content = serde_json::to_vec(&file).expect("text under text keys always encodes");
    let written = tokio::task::spawn_blocking(move || write(&folder, &name, &content)).await;
    match written.map_err(io::Error::other).flatten() {
        Ok(()) => {
            kept("file");
            tracing::error!(topic, sensor_id, %error, "Kafka refuses a spooled record, also as a dead letter: it is a file now");
            true
        }
        Err(cause) => {
            tracing::error!(topic, sensor_id, %error, %cause, "Kafka refuses a spooled record, and it cannot be kept elsewhere");
            false
        }
    }
}

/// Makes the letter that stands for a record. A record that is a letter already stays the one that it is.
fn letter_of(record: &Record, dead_letters: &str, error: &KafkaError) -> DeadLetter {
    let headers = || record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice())));
    if *record.topic == *dead_letters
        && let Ok(letter) = DeadLetter::read(headers())
    {
        return letter;
    }
    let reading = serde_json::from_slice::<ReadingCreatedEvent>(&record.payload).ok();
    DeadLetter {
        origin: Some(Origin { topic: record.topic.to_string(), place: None }),
        event_id: reading.map(|reading| reading.event_id),
        source_headers: headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        ..DeadLetter::new(REASON, error.to_string())
    }
}

/// Names a record's file: the same record makes the same file, also when it comes again.
fn name(record: &Record) -> String {
    let mut hash = Sha256::new();
    for part in [record.topic.as_bytes(), b"\0", record.sensor_id.as_bytes(), b"\0", &record.payload] {
        hash.update(part);
    }
    format!("{:x}.json", hash.finalize())
}

/// Writes a file whole or not at all, and returns when the disk has it.
fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    private::create_dir(folder)?;
    let path = folder.join(name);
    if !path.try_exists()? && fs::read_dir(folder)?.count() >= FILES_MAX {
        return Err(io::Error::other(format!("there are {FILES_MAX} files in {}", folder.display())));
    }
    let draft = folder.join("draft");
    let mut file = private::file().write(true).create(true).truncate(true).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
}

//! One lake in a folder, the processes that fill it, and what is in it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use rdkafka::consumer::{BaseConsumer, Consumer};
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use testkit::kafka::{Kafka, SCALED_PARTITIONS};
use testkit::wait::until;

/// Records that are produced at the same time.
const PRODUCED_AT_ONCE: usize = 500;

pub(crate) struct Stage {
    pub(crate) kafka: Kafka,
    pub(crate) folder: TempDir,
}

/// Where a row came from: partition, offset and metric name it.
pub(crate) type Origin = (i32, i64, String);

/// A row as the tests compare it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) sensor_id: String,
    pub(crate) value: f64,
    /// As the folder says.
    pub(crate) day: String,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self { kafka: Kafka::create().await, folder: TempDir::new().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    /// Starts a process with small files, and with what `settings` says beside or instead.
    pub(crate) fn spawn(&self, settings: &[(&str, &str)]) -> Process {
        let port = testkit::free_port();
        let mut command = testkit::process::command(env!("CARGO_BIN_EXE_lake-svc"));
        command
            .env("ADMIN_LISTEN", format!("127.0.0.1:{port}"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap)
            .env("KAFKA_TOPIC_PREFIX", &self.kafka.prefix)
            .env("LAKE_URL", self.url())
            .env("FILE_RECORDS_MAX", "100")
            .env("FILE_AGE_MS_MAX", "300")
            .env("LOG", "warn")
            .envs(settings.iter().copied())
            .stdin(Stdio::null());
        Process { child: command.spawn().unwrap(), port }
    }

    pub(crate) async fn publish(&self, readings: &[ReadingCreatedEvent]) {
        for some in readings.chunks(PRODUCED_AT_ONCE) {
            let produced = some.iter().map(async |reading| {
                let value = serde_json::to_vec(reading).unwrap();
                self.kafka.produce(topics::READINGS, &reading.sensor_id, Some(&value)).await;
            });
            futures::future::join_all(produced).await;
        }
    }

    /// Returns the end of each partition.
    pub(crate) fn ends(&self) -> BTreeMap<i32, i64> {
        let settings = self.kafka.settings();
        let topic = settings.topic(topics::READINGS.name);
        let consumer: BaseConsumer = settings.consumer("ends").create().unwrap();
        let end = |partition| {
            let (_, high) = consumer.fetch_watermarks(&topic, partition, Duration::from_secs(30)).unwrap();
            (partition, high)
        };
        tokio::task::block_in_place(|| (0..SCALED_PARTITIONS).map(end).collect())
    }

    /// Waits until every record that is in Kafka now is in a complete cut.
    pub(crate) async fn holds_all(&self) {
        let ends = self.ends();
        until("every record in a cut", async || {
            ends.iter().all(|(partition, end)| *end == 0 || self.done(*partition) >= *end).then_some(())
        })
        .await;
    }

    /// Returns the offset up to which a partition is in complete cuts.
    pub(crate) fn done(&self, partition: i32) -> i64 {
        let cuts = self.cuts(partition);
        let Some((first, manifest)) = cuts.last_key_value() else { return 0 };
        let last = manifest["last"].as_i64().unwrap();
        let is_there =
            |day: &String| self.folder.path().join(file_path(partition, *first, last, day)).is_file();
        if manifest["rows"].as_object().unwrap().keys().all(is_there) { last + 1 } else { *first }
    }

    /// Returns the manifests of a partition by first offset.
    pub(crate) fn cuts(&self, partition: i32) -> BTreeMap<i64, serde_json::Value> {
        let Ok(entries) = self.folder.path().join(format!("cuts/part={partition}")).read_dir() else {
            return BTreeMap::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| {
                let first = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                (first, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
            })
            .collect()
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(&self.folder.path().join("readings"), &mut files);
        files
    }

    /// Returns every row of the lake.
    ///
    /// # Panics
    /// One stands twice.
    pub(crate) fn rows(&self) -> BTreeMap<Origin, Stored> {
        let mut rows = BTreeMap::new();
        for path in self.files() {
            let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
            for row in reader.get_row_iter(None).unwrap() {
                let (origin, stored) = stored(&row.unwrap(), &path);
                let double = rows.insert(origin.clone(), stored);
                assert!(double.is_none(), "{origin:?} stands twice, also in {}", path.display());
            }
        }
        rows
    }

    /// Holds the lake against what was published: every metric value of every reading once, in the folder of
    /// its day, and each partition's cuts one behind the other from the first offset to the last.
    pub(crate) fn holds_exactly(&self, readings: &[ReadingCreatedEvent]) {
        let mut found: Vec<_> = self
            .rows()
            .into_iter()
            .map(|((_, _, metric), row)| (row.sensor_id, metric, row.value.to_bits(), row.day))
            .collect();
        let mut expected: Vec<_> = readings
            .iter()
            .flat_map(|one| {
                let day = one.reading_at.to_string()[..10].to_owned();
                let row = move |(metric, value): (&String, &f64)| {
                    (one.sensor_id.clone(), metric.clone(), value.to_bits(), day.clone())
                };
                one.values.iter().map(row)
            })
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found.len(), expected.len(), "rows");
        assert!(found == expected, "as many rows as there should be, but others");
        for (partition, end) in self.ends() {
            let mut next = 0;
            for (first, manifest) in self.cuts(partition) {
                assert_eq!(first, next, "partition {partition}: a gap or an overlap");
                next = manifest["last"].as_i64().unwrap() + 1;
            }
            assert_eq!(next, end, "partition {partition}");
        }
    }
}

fn file_path(partition: i32, first: i64, last: i64, day: &str) -> String {
    format!("readings/day={day}/part={partition}/{first:020}-{last:020}.parquet")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = folder.read_dir() else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            // Spark reads whatever stands there.
            assert!(path.extension().is_some_and(|extension| extension == "parquet"), "{}", path.display());
            files.push(path);
        }
    }
}

fn stored(row: &Row, path: &Path) -> (Origin, Stored) {
    let (mut sensor_id, mut metric, mut value, mut origin) =
        (String::new(), String::new(), f64::NAN, (-1, -1));
    for (name, field) in row.get_column_iter() {
        match (name.as_str(), field) {
            ("sensor_id", Field::Str(text)) => sensor_id.clone_from(text),
            ("metric", Field::Str(text)) => metric.clone_from(text),
            ("value", Field::Double(number)) => value = *number,
            ("kafka_partition", Field::Int(partition)) => origin.0 = *partition,
            ("kafka_offset", Field::Long(offset)) => origin.1 = *offset,
            _ => {}
        }
    }
    let folder = path.parent().and_then(Path::parent).and_then(Path::file_name).unwrap().to_str().unwrap();
    let day = folder.strip_prefix("day=").unwrap().to_owned();
    ((origin.0, origin.1, metric), Stored { sensor_id, value, day })
}

/// A process of its own, so that it can be killed.
pub(crate) struct Process {
    child: Child,
    port: u16,
}

impl Process {
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it as an orchestrator does, and returns its exit code.
    pub(crate) async fn stop(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        until("the process to end", async || child.try_wait().unwrap()).await.code()
    }

    /// Waits until `/readyz` says yes or no.
    pub(crate) async fn is_ready(&self, expected: bool) {
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        until(&format!("readiness {expected}"), async || {
            let answer = client.get(&url).send().await.ok()?;
            (answer.status().is_success() == expected).then_some(())
        })
        .await;
    }

    /// Returns the value of a counter or gauge, once it is there.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = client.get(&url).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Err means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reading of its own event, with two metrics.
pub(crate) fn reading(number: u32, at: &str) -> ReadingCreatedEvent {
    let sensor_id = format!("s{}", number % 13);
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
        device_type: "THERMOSTAT".into(),
        zone_id: "kitchen".into(),
        values: [("temperature".to_owned(), f64::from(number)), ("humidity".to_owned(), -f64::from(number))]
            .into(),
        attributes: serde_json::Map::new(),
        reading_at: Timestamp::parse(at).unwrap(),
        received_at: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(),
        sensor_id,
    }
}

/// Readings of one day, and every tenth of the day before.
pub(crate) fn readings(numbers: std::ops::Range<u32>) -> Vec<ReadingCreatedEvent> {
    let day = |number: u32| if number.is_multiple_of(10) { "2026-01-01" } else { "2026-01-02" };
    numbers.map(|number| reading(number, &format!("{}T03:04:05Z", day(number)))).collect()
}

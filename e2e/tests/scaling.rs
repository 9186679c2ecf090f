//! The consuming services grow from one instance to three and shrink again, in a loop, while they lag.
//!
//! `SCALING_TURNS=20` makes the loop longer than `make test` does.

use e2e::Instance;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use schema::{
    Alert, Change, Mode, Op, ReadingCreatedEvent, Repeat, Scope, Severity, Source, ThresholdKey,
    ThresholdRow, Timestamp, event_id_from_publisher, topics,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use tempfile::TempDir;
use testkit::kafka::{Kafka, Record};
use testkit::postgres::Database;
use testkit::wait::until;
use uuid::Uuid;

/// Readings that come at once, so that there is lag while partitions move.
const BURST: u32 = 3_000;
/// Times that a service grows and shrinks when nothing else is asked for.
const TURNS: u32 = 2;
/// Sensors that the readings come from: enough to reach every partition.
const SENSORS: u32 = 50;
const AT: &str = "2026-01-02T03:04:05Z";

fn turns() -> u32 {
    let asked = std::env::vars().find_map(|(name, value)| (name == "SCALING_TURNS").then_some(value));
    asked.map_or(TURNS, |count| count.parse().expect("SCALING_TURNS is a number"))
}

/// Produces readings, each with an event of its own.
struct Load<'a> {
    kafka: &'a Kafka,
    produced: u32,
}

impl Load<'_> {
    async fn burst(&mut self) {
        let numbers = self.produced..self.produced + BURST;
        let produced = numbers.map(async |number| {
            let reading = reading(number);
            let value = serde_json::to_vec(&reading).unwrap();
            self.kafka.produce(topics::READINGS, &reading.sensor_id, Some(&value)).await;
        });
        futures::future::join_all(produced).await;
        self.produced += BURST;
    }

    /// Holds event ids against what was produced: each of them, and each once.
    fn is_there_once(&self, found: Vec<Uuid>) {
        let mut counts: BTreeMap<Uuid, u32> = BTreeMap::new();
        found.into_iter().for_each(|event| *counts.entry(event).or_default() += 1);
        let missing =
            (0..self.produced).filter(|number| !counts.contains_key(&reading(*number).event_id)).count();
        let double = counts.values().filter(|count| **count > 1).count();
        assert_eq!((missing, double), (0, 0), "missing and double of {}", self.produced);
        assert_eq!(counts.len(), self.produced as usize, "events that nobody produced");
    }
}

fn reading(number: u32) -> ReadingCreatedEvent {
    let sensor_id = format!("s{}", number % SENSORS);
    let at = Timestamp::parse(AT).unwrap();
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
        sensor_id,
        device_type: "THERMOSTAT".into(),
        zone_id: "kitchen".into(),
        values: [("temperature".to_owned(), 1.0)].into(),
        attributes: serde_json::Map::new(),
        reading_at: at,
        received_at: at,
    }
}

/// Names the metrics that show what an instance reads and has done.
struct Shown {
    group: &'static str,
    assigned: &'static str,
    done: &'static str,
    lag: &'static str,
    stalls: &'static str,
}

/// Has two more instances join while the first is frozen and lags, work beside it, and leave under load, turn
/// after turn.
async fn grow_and_shrink(
    first: &Instance,
    start: impl Fn(u32) -> Instance,
    shown: &Shown,
    load: &mut Load<'_>,
) {
    for _ in 0..turns() {
        first.freeze();
        load.burst().await;
        let others = [start(1), start(2)];
        first.thaw();
        both_show(&others, shown.assigned).await;
        load.burst().await;
        both_show(&others, shown.done).await;
        load.burst().await;
        for other in others {
            other.stop().await;
        }
        load.burst().await;
        // An instance knows the lag of its own partitions, and those of one that is gone may still be
        // nobody's.
        until("no lag of the group", async || {
            let lag = tokio::task::block_in_place(|| load.kafka.lag(shown.group, topics::READINGS));
            (lag == 0).then_some(())
        })
        .await;
    }
    until("no lag", async || (first.metric(shown.lag).await? == 0.0).then_some(())).await;
    assert_eq!(first.metric(shown.stalls).await, Some(0.0));
}

async fn both_show(others: &[Instance; 2], metric: &str) {
    until(&format!("{metric} of the second and the third"), async || {
        let [second, third] = others;
        (second.metric(metric).await? > 0.0 && third.metric(metric).await? > 0.0).then_some(())
    })
    .await;
}

/// Puts a threshold that each reading of the sensor violates.
async fn put_threshold(kafka: &Kafka, sensor_id: String) {
    let at = Timestamp::parse(AT).unwrap();
    let row = ThresholdRow {
        threshold_id: event_id_from_publisher(&sensor_id, "threshold"),
        scope: Scope::Sensor(sensor_id),
        metric: "temperature".into(),
        min_value: None,
        max_value: Some(0.5),
        no_data_seconds: None,
        hysteresis: 0.0,
        for_seconds: 0,
        keep_firing_seconds: 0,
        repeat: Repeat::Every,
        alert_age_seconds_max: None,
        severity: Severity::Critical,
        mode: Mode::Live,
        description: String::new(),
        version: 1,
        created_at: at,
        updated_at: at,
        updated_by: String::new(),
    };
    let key = serde_json::to_string(&ThresholdKey { threshold_id: row.threshold_id }).unwrap();
    let change =
        Change { op: Op::Create, before: None, after: Some(row), source: Source::default(), ts_ms: 0 };
    let value = serde_json::to_vec(&change).unwrap();
    kafka.produce(topics::THRESHOLD_UPDATES, &key, Some(&value)).await;
}

/// Returns the event of every row of every file below a folder.
fn events_in_lake(folder: &Path) -> Vec<Uuid> {
    let mut events = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            events.extend(events_in_lake(&path));
            continue;
        }
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let column = columns.iter().position(|column| column.name() == "event_id").unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        events.extend(rows.map(|row| row.unwrap().get_string(column).unwrap().parse::<Uuid>().unwrap()));
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn alerting_svc_grows_and_shrinks_under_lag_and_raises_every_alert_once() {
    let kafka = Kafka::create().await;
    for sensor in 0..SENSORS {
        put_threshold(&kafka, format!("s{sensor}")).await;
    }
    let start = |number: u32| {
        let variables = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap.as_str()),
            ("KAFKA_TOPIC_PREFIX", &kafka.prefix),
            ("INSTANCE_ID", &number.to_string()),
        ];
        Instance::start("alerting-svc", &variables)
    };
    let first = start(0);
    first.ready().await;
    let shown = Shown {
        group: "alerting-svc",
        assigned: "alerting_partitions_assigned",
        done: "alerting_readings_total",
        lag: "alerting_lag_records",
        stalls: "alerting_stalls_total",
    };
    let mut load = Load { kafka: &kafka, produced: 0 };
    grow_and_shrink(&first, start, &shown, &mut load).await;
    first.stop().await;
    let alerts = kafka.read_all(topics::ALERTS).await;
    let event = |record: &Record| serde_json::from_str::<Alert>(record.text()).unwrap().event_id.unwrap();
    load.is_there_once(alerts.iter().map(event).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn lake_svc_grows_and_shrinks_under_lag_and_holds_every_reading_once() {
    let (kafka, lake) = (Kafka::create().await, TempDir::new().unwrap());
    let start = |_| {
        let variables = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap.as_str()),
            ("KAFKA_TOPIC_PREFIX", &kafka.prefix),
            ("LAKE_URL", &format!("file://{}", lake.path().display())),
            ("FILE_RECORDS_MAX", "500"),
            ("FILE_AGE_MS_MAX", "300"),
        ];
        Instance::start("lake-svc", &variables)
    };
    let first = start(0);
    first.ready().await;
    let shown = Shown {
        group: "lake-svc",
        assigned: "lake_partitions_assigned",
        done: "lake_rows_total",
        lag: "lake_lag_records",
        stalls: "lake_stalls_total",
    };
    let mut load = Load { kafka: &kafka, produced: 0 };
    grow_and_shrink(&first, start, &shown, &mut load).await;
    first.stop().await;
    load.is_there_once(events_in_lake(&lake.path().join("readings")));
}

#[tokio::test(flavor = "multi_thread")]
async fn command_svc_grows_and_shrinks_under_lag_and_stores_everything_once() {
    let (kafka, database) = tokio::join!(Kafka::create(), Database::create());
    let start = || {
        Instance::start(
            "command-svc",
            &[
                ("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap),
                ("KAFKA_TOPIC_PREFIX", &kafka.prefix),
                ("DATABASE_URL", database.url()),
            ],
        )
    };
    let first = start();
    first.ready().await;
    let mut load = Load { kafka: &kafka, produced: 0 };
    let holder = database.client().await;
    for _ in 0..turns() {
        // Writes wait while others join, so the partitions that move have lag.
        holder.batch_execute("BEGIN; LOCK TABLE readings_ingestion IN EXCLUSIVE MODE").await.unwrap();
        load.burst().await;
        let (second, third) = (start(), start());
        until("partitions of the second and the third", async || {
            let assigned = async |instance: &Instance| instance.metric("command_partitions_assigned").await;
            (assigned(&second).await? > 0.0 && assigned(&third).await? > 0.0).then_some(())
        })
        .await;
        load.burst().await;
        holder.batch_execute("COMMIT").await.unwrap();
        until("rows of the second and the third", async || {
            let rows = async |instance: &Instance| instance.metric("command_rows_inserted_total").await;
            (rows(&second).await? > 0.0 && rows(&third).await? > 0.0).then_some(())
        })
        .await;
        load.burst().await;
        second.stop().await;
        third.stop().await;
        load.burst().await;
        until("every reading as a row", async || {
            (database.count("SELECT count(*) FROM readings_ingestion").await >= load.produced.into())
                .then_some(())
        })
        .await;
    }
    until("no lag and nothing paused", async || {
        let is_done = first.metric("command_lag_records").await? == 0.0;
        (is_done && first.metric("command_partitions_paused").await? == 0.0).then_some(())
    })
    .await;
    assert_eq!(first.metric("command_stalls_total").await, Some(0.0));
    first.stop().await;
    let expected = i64::from(load.produced);
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, expected);
    assert_eq!(database.count("SELECT count(DISTINCT event_id) FROM readings_ingestion").await, expected);
    database.refresh_hours().await;
    let counted = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";
    assert_eq!(database.count(counted).await, expected);
}

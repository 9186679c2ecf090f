//! Killed again and again, at moments that nobody chose, while the tables change.

use crate::support::{DEVICES, Stage, key, value};
use schema::topics::{self, Topic};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::wait::until;
use tokio_postgres::Client;

/// Kills of a test run; the variable KILLS asks for more.
const KILLS: u32 = 5;
/// Longest life of a process, in milliseconds: long enough to start, to take its slot, and to work.
const LIFE_MS_MAX: u64 = 1_500;
/// Keys of each table that the changes are about.
const KEYS: u64 = 20;

/// A small generator of numbers: the constants are Knuth's.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Makes one transaction: inserts, updates, deletes, moved keys, and now and then a TRUNCATE.
    fn transaction(&mut self) -> String {
        let mut sql = String::from("BEGIN;");
        for _ in 0..=self.below(4) {
            let (one, other) = (self.below(KEYS), self.below(KEYS));
            sql += &match self.below(40) {
                0..15 => format!(
                    "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
                     VALUES ('d{one}', 't', 'z', 'json', 'active') ON CONFLICT (sensor_id) DO UPDATE \
                     SET version = nextval('devices_version');"
                ),
                15..25 => format!(
                    "INSERT INTO silences (silence_id, zone_id, starts_at, ends_at, comment, created_by) \
                     VALUES (md5('{one}')::uuid, 'z', now(), now() + '1h', '{other}', 'ada') \
                     ON CONFLICT (silence_id) DO UPDATE SET comment = '{other}';"
                ),
                25..31 => format!("DELETE FROM devices WHERE sensor_id = 'd{one}';"),
                31..35 => format!("DELETE FROM silences WHERE silence_id = md5('{one}')::uuid;"),
                35..39 => format!(
                    "UPDATE devices SET sensor_id = 'd{other}' WHERE sensor_id = 'd{one}' \
                     AND NOT EXISTS (SELECT FROM devices WHERE sensor_id = 'd{other}');"
                ),
                _ => "TRUNCATE silences;".to_owned(),
            };
        }
        // Some change their mind.
        sql + if self.below(8) == 0 { "ROLLBACK" } else { "COMMIT" }
    }
}

fn asked_for() -> u32 {
    let asked = std::env::vars().find_map(|(name, value)| (name == "KILLS").then_some(value));
    asked.map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Returns the rows of a table by key, as JSON of the columns that tell versions of a row apart.
async fn rows(sql: &Client, select: &str) -> BTreeMap<String, String> {
    let rows = sql.query(select, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Returns what a reader of the whole topic holds in the end.
async fn held(stage: &Stage, topic: Topic, id: &str, column: &str) -> BTreeMap<String, String> {
    let mut held = BTreeMap::new();
    for record in stage.kafka.read_all(topic).await {
        let key = key(&record)[id].as_str().unwrap().to_owned();
        let after = record.value.as_ref().map_or(Value::Null, |_| value(&record)["after"].clone());
        if after.is_null() {
            held.remove(&key);
        } else {
            let told = &after[column];
            held.insert(key, told.as_str().map_or_else(|| told.to_string(), str::to_owned));
        }
    }
    held
}

#[tokio::test]
async fn killed_at_any_moment_the_topics_end_as_the_tables() {
    let kills = asked_for();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    println!("{kills} kills, seed {seed}");
    let (stage, mut dice) = (Stage::set().await, Dice(seed));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(write(stage.database.client().await, Dice(!seed), stopped));
    for _ in 0..kills {
        let mut process = stage.spawn();
        // Not a wait for a state: the moment of death is what is drawn.
        tokio::time::sleep(Duration::from_millis(dice.below(LIFE_MS_MAX))).await;
        process.kill();
    }
    let service = stage.start();
    service.is_ready().await;
    stop.send(()).unwrap();
    println!("{} transactions", writing.await.unwrap());
    let end: i64 = stage.database.count("SELECT (pg_current_wal_lsn() - '0/0')::int8").await;
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = '{}'",
        stage.slot
    );
    until("the last change to be captured", async || {
        (stage.database.count(&confirmed).await >= end).then_some(())
    })
    .await;
    let of_silences = "SELECT silence_id::text, comment FROM silences";
    for (topic, id, column, select) in [
        (DEVICES, "sensor_id", "version", "SELECT sensor_id, version::text FROM devices"),
        (topics::SILENCE_UPDATES, "silence_id", "comment", of_silences),
    ] {
        assert_eq!(held(&stage, topic, id, column).await, rows(&stage.sql, select).await, "{}", topic.name);
    }
    stage.stop(service).await;
}

/// Changes the tables until it is told to stop; returns how many transactions it made.
async fn write(sql: Client, mut dice: Dice, mut stopped: tokio::sync::oneshot::Receiver<()>) -> u32 {
    let mut transactions = 0;
    while stopped.try_recv().is_err() {
        sql.batch_execute(&dice.transaction()).await.unwrap();
        transactions += 1;
        // Some hundred in a second: they outlive every process, and their end is soon caught up with.
        tokio::time::sleep(Duration::from_millis(dice.below(8))).await;
    }
    transactions
}

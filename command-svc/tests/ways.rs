//! The two ways into the table leave the same rows and the same read models.

use crate::support::{batch, reading};
use command_svc::store::Store;
use schema::migrations::Dialect;
use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::json;
use testkit::postgres::{Database, dialects};

const TABLES: [&str; 3] = [
    "SELECT md5(string_agg(r::text, '|' ORDER BY sensor_id, metric, reading_at, event_id)) FROM readings_ingestion r",
    "SELECT md5(string_agg(r::text, '|' ORDER BY sensor_id, metric)) FROM sensor_latest r",
    "SELECT md5(string_agg(row(bucket, sensor_id, metric, device_type, zone_id, avg, min, max, count, sum)::text, '|' \
     ORDER BY sensor_id, metric, bucket, device_type, zone_id)) FROM sensor_reading_hourly_aggregates",
];

fn readings(count: u32) -> Vec<ReadingCreatedEvent> {
    (0..count)
        .map(|number| {
            let at = format!("2026-01-{:02}T{:02}:59:59.5Z", 1 + number % 3, number * 7 % 24);
            let mut reading = reading(&format!("s{}", number % 11), number, &at, f64::from(number % 17));
            reading.values.insert("humidity".into(), f64::from(number % 5));
            if number % 4 == 0 {
                reading.attributes =
                    json!({"firmware": "1.2", "nested": [1, null]}).as_object().unwrap().clone();
            }
            if number % 13 == 0 {
                // A clock that is ten hours ahead.
                reading.received_at =
                    Timestamp::from_micros(reading.reading_at.as_micros() - 36_000_000_000).unwrap();
            }
            if number % 100 == 99 {
                reading.zone_id = "moved".into();
            }
            reading
        })
        .collect()
}

pub(crate) async fn fingerprint(database: &Database) -> Vec<String> {
    let client = database.client().await;
    let mut found = Vec::new();
    for sql in TABLES {
        found.push(client.query_one(sql, &[]).await.unwrap().get(0));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_small_ones_and_redelivered_ones_leave_the_same_tables() {
    for dialect in dialects().await {
        every_way_leaves_the_same_tables(dialect).await;
    }
}

async fn every_way_leaves_the_same_tables(dialect: Dialect) {
    let readings = readings(2_000);
    let stores = async |batches: Vec<&[ReadingCreatedEvent]>| {
        let database = Database::create_with(dialect).await;
        let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
        let mut inserted = 0;
        for part in batches {
            inserted += store.write(batch(part).readings()).await.unwrap();
        }
        database.refresh_hours().await;
        (inserted, fingerprint(&database).await)
    };
    let (copied, by_copy) = stores(vec![&readings]).await;
    let (stated, by_statement) = stores(readings.chunks(100).collect()).await;
    // The second batch overlaps the first: its COPY meets a duplicate and the statement takes over.
    let (overlapping, by_both) = stores(vec![&readings[..1_200], &readings[600..], &readings]).await;
    assert_eq!((copied, stated, overlapping), (4_000, 4_000, 4_000));
    assert_eq!(by_copy, by_statement);
    assert_eq!(by_copy, by_both);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_dated_in_the_future_never_hides_the_true_ones_that_follow_it() {
    for dialect in dialects().await {
        // Alone, and among enough that they are copied.
        for others in [0, 2_000] {
            let database = Database::create_with(dialect).await;
            let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
            let ahead = |number, value| {
                let mut reading = reading("stuck", number, "2026-01-02T20:00:00Z", value);
                reading.received_at = Timestamp::parse("2026-01-02T00:00:00Z").unwrap();
                reading
            };
            let mut first = readings(others);
            first.push(ahead(1, 1.0));
            store.write(batch(&first).readings()).await.unwrap();
            let latest = "SELECT value::int8 FROM sensor_latest WHERE sensor_id = 'stuck'";
            assert_eq!(database.count(latest).await, 1, "{dialect:?}");
            store.write(batch(&[reading("stuck", 2, "2026-01-02T00:01:00Z", 2.0)]).readings()).await.unwrap();
            assert_eq!(database.count(latest).await, 2, "{dialect:?}: a true reading that came later");
            // Nor does one that comes late, nor does a redelivered one.
            let late = reading("stuck", 3, "2026-01-02T00:00:30Z", 3.0);
            store.write(batch(&[late, ahead(1, 1.0), ahead(4, 4.0)]).readings()).await.unwrap();
            assert_eq!(database.count(latest).await, 2, "{dialect:?}: none of them is newer");
        }
    }
}

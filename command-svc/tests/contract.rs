//! The storage contract, the same for every dialect that the test server offers.

use crate::support::{Service, batch, config, produce, reading, rows_reach};
use crate::ways::fingerprint;
use command_svc::store::Store;
use schema::migrations::{self, Dialect, Migration, VERSION};
use schema::{ReadingCreatedEvent, Timestamp};
use std::collections::BTreeMap;
use testkit::kafka::Kafka;
use testkit::postgres::{Database, dialects};
use tokio_postgres::error::SqlState;

/// What other services rely on. Order is that of the name, since a view and a table need not agree on it.
const COLUMNS: [&str; 9] = [
    "alert_acknowledgements: acknowledged_at timestamp with time zone, acknowledged_by text, episode_id uuid, note text",
    "alert_episodes: bound_limit text, bound_value double precision, closed_at timestamp with time zone, \
     closing_reason text, description text, device_type text, display_name text, episode_id uuid, \
     last_alert_id uuid, last_at timestamp with time zone, last_detected_at timestamp with time zone, metric text, \
     occurrences bigint, opened_at timestamp with time zone, reason text, sensor_id text, severity text, \
     silenced_by uuid, status text, summary text, threshold_id uuid, threshold_version bigint, unit text, \
     value_first double precision, value_last double precision, value_max double precision, \
     value_min double precision, zone_id text",
    "devices: codec text, codec_layout jsonb, created_at timestamp with time zone, device_type text, display_name text, \
     fingerprints ARRAY, sensor_id text, status text, updated_at timestamp with time zone, version bigint, zone_id text",
    "readings_ingestion: attributes jsonb, device_type text, event_id uuid, metric text, \
     reading_at timestamp with time zone, received_at timestamp with time zone, sensor_id text, \
     value double precision, zone_id text",
    "sensor_latest: device_type text, event_id uuid, metric text, reading_at timestamp with time zone, \
     received_at timestamp with time zone, sensor_id text, value double precision, zone_id text",
    "sensor_reading_hourly_aggregates: avg double precision, bucket timestamp with time zone, count bigint, \
     device_type text, max double precision, metric text, min double precision, sensor_id text, \
     sum double precision, zone_id text",
    "sensor_threshold_versions: change text, changed_at timestamp with time zone, changed_by text, threshold jsonb, \
     threshold_id uuid, version bigint",
    "sensor_thresholds: alert_age_seconds_max integer, created_at timestamp with time zone, description text, \
     device_type text, for_seconds integer, hysteresis double precision, keep_firing_seconds integer, \
     max_value double precision, metric text, min_value double precision, mode text, no_data_seconds integer, \
     repeat text, sensor_id text, severity text, threshold_id uuid, updated_at timestamp with time zone, \
     updated_by text, version bigint, zone_id text",
    "silences: comment text, created_at timestamp with time zone, created_by text, device_type text, \
     ends_at timestamp with time zone, metric text, sensor_id text, severity text, silence_id uuid, \
     starts_at timestamp with time zone, updated_at timestamp with time zone, version bigint, zone_id text",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_has_the_columns_of_the_contract() {
    for dialect in dialects().await {
        let database = Database::create_with(dialect).await;
        let client = database.client().await;
        for expected in COLUMNS {
            let (table, _) = expected.split_once(": ").unwrap();
            let columns = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_name) \
                           FROM information_schema.columns WHERE table_name = $1";
            let found: String = client.query_one(columns, &[&table]).await.unwrap().get(0);
            assert_eq!(format!("{table}: {found}"), expected, "{dialect:?}");
        }
        let recorded: String =
            client.query_one("SELECT dialect FROM storage_contract", &[]).await.unwrap().get(0);
        assert_eq!(recorded, dialect.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_however_often_and_from_wherever_they_are_started() {
    for dialect in dialects().await {
        let database = Database::create_empty().await;
        let migrate = async || {
            let mut client = database.client().await;
            iotctl::database::migrate(&mut client, Some(dialect)).await.unwrap()
        };
        let at_once = tokio::join!(migrate(), migrate(), migrate());
        assert_eq!(at_once, (dialect, dialect, dialect));
        migrate().await;
        let applied = "SELECT count(*) FROM refinery_schema_history";
        assert_eq!(database.count(applied).await, i64::from(VERSION), "{dialect:?}");
        assert_eq!(database.count("SELECT count(*) FROM storage_contract").await, 1, "{dialect:?}");
    }
}

/// Migrations of this build up to a version.
fn up_to(dialect: Dialect, version: i32) -> Vec<Migration> {
    migrations::of(dialect).into_iter().filter(|one| one.version() <= version).collect()
}

/// The migrations of a build that comes after this one.
fn and_next(dialect: Dialect, name: &str) -> Vec<Migration> {
    let sql = "ALTER TABLE sensor_latest ADD COLUMN note text; ALTER TABLE devices ADD COLUMN note text";
    let next = Migration::unapplied(&format!("V{}__{name}", VERSION + 1), sql).unwrap();
    up_to(dialect, VERSION).into_iter().chain([next]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_works_with_the_last_schemas_and_with_the_next_that_does_not_break() {
    for dialect in dialects().await {
        let known = migrations::VERSIONS.map(|version| up_to(dialect, version));
        for schema in known.chain([and_next(dialect, "add_notes")]) {
            let (kafka, database) = (Kafka::create().await, Database::create_empty().await);
            chassis::postgres::migrate(&mut database.client().await, &schema).await.unwrap();
            let service = Service::start(&kafka, database.url());
            produce(&kafka, &reading("s1", 1, "2026-01-02T03:04:05Z", 1.0)).await;
            rows_reach(&database, 1).await;
            service.ready().await;
            service.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_refuses_a_schema_that_lacks_something_and_one_that_broke_with_it() {
    let dialect = Dialect::Distributed;
    let older = up_to(dialect, migrations::VERSIONS.start() - 1);
    let cases = [(older, "run `iotctl migrate`"), (and_next(dialect, "breaking_notes"), "run a newer one")];
    for (schema, advice) in cases {
        let (kafka, database) = (Kafka::create().await, Database::create_empty().await);
        chassis::postgres::migrate(&mut database.client().await, &schema).await.unwrap();
        let refused = command_svc::run(config(&kafka, database.url()), chassis::Chassis::new()).await;
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains(advice), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_keeps_its_dialect() {
    let database = Database::create_with(Dialect::Distributed).await;
    let mut client = database.client().await;
    let refused = iotctl::database::migrate(&mut client, Some(Dialect::Postgres)).await.unwrap_err();
    assert!(refused.to_string().contains("has the dialect distributed"), "{refused:#}");
    let kept = iotctl::database::migrate(&mut client, None).await.unwrap();
    assert_eq!(kept, Dialect::Distributed);
}

/// Two days on which Central European clocks change, each with a reading in the middle of every hour; then
/// late ones.
fn stories() -> [Vec<ReadingCreatedEvent>; 4] {
    let day = |date: &str, first: u32| {
        let at = |hour| format!("{date}T{hour:02}:30:00.000001Z");
        (0..24).map(|hour| reading("s1", first + hour, &at(hour), f64::from(hour))).collect::<Vec<_>>()
    };
    let (spring, autumn) = (day("2026-03-29", 0), day("2026-10-25", 100));
    let mut late = vec![
        reading("s1", 200, "2026-03-29T01:00:00Z", 100.0), // the first instant of summer time
        reading("s1", 201, "2026-03-29T00:59:59.999999Z", -100.0),
        reading("s1", 202, "2020-02-29T12:00:00Z", 7.0), // years late, on a day of its own
        reading("s2", 203, "1969-12-31T23:59:59.999999Z", 7.0),
    ];
    late[2].zone_id = "attic".into();
    // Redelivered, retransmitted within one batch, and another event of the same instant.
    let mut again = vec![spring[3].clone(), late[0].clone(), late[0].clone()];
    again.push(reading("s1", 300, "2026-03-29T01:00:00Z", 101.0));
    again.push(again[3].clone());
    [spring, autumn, late, again]
}

type Hours = BTreeMap<(String, String, String), (i64, f64, f64, f64, f64)>;

/// Computes the hours as their definition says, from the distinct events.
fn expected_hours(stories: &[Vec<ReadingCreatedEvent>]) -> Hours {
    let distinct: BTreeMap<_, _> = stories.iter().flatten().map(|one| (one.event_id, one)).collect();
    let mut values = BTreeMap::<_, Vec<f64>>::new();
    for one in distinct.values() {
        let bucket = one.reading_at.hour().to_string();
        let key = (one.sensor_id.clone(), bucket, one.zone_id.clone());
        values.entry(key).or_default().push(one.values["temperature"]);
    }
    let sum_up = |values: Vec<f64>| {
        let (sum, count) = (values.iter().sum::<f64>(), i64::try_from(values.len()).unwrap());
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (count, sum, min, max, sum / values.len() as f64)
    };
    values.into_iter().map(|(key, values)| (key, sum_up(values))).collect()
}

async fn stored_hours(database: &Database) -> Hours {
    let rows = database
        .client()
        .await
        .query(
            "SELECT sensor_id, bucket, zone_id, count, sum, min, max, avg FROM sensor_reading_hourly_aggregates",
            &[],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            let bucket = Timestamp::from(row.get::<_, time::OffsetDateTime>(1)).to_string();
            let sums = (row.get(3), row.get(4), row.get(5), row.get(6), row.get(7));
            ((row.get(0), bucket, row.get(2)), sums)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_duplicate_and_summer_time_readings_give_the_same_answers_in_every_dialect() {
    let stories = stories();
    let expected = expected_hours(&stories);
    let mut fingerprints = Vec::new();
    for dialect in dialects().await {
        let database = Database::create_with(dialect).await;
        // The server's own zone must not matter.
        let name = database.url().rsplit_once('/').unwrap().1;
        let zone = format!("ALTER DATABASE {name} SET timezone = 'Europe/Berlin'");
        database.client().await.batch_execute(&zone).await.unwrap();
        let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
        let mut inserted = Vec::new();
        for story in &stories {
            inserted.push(store.write(batch(story).readings()).await.unwrap());
        }
        assert_eq!(inserted, [24, 24, 4, 1], "{dialect:?}");
        database.refresh_hours().await;
        assert_eq!(stored_hours(&database).await, expected, "{dialect:?}");
        let latest = "SELECT count(*) FROM sensor_latest WHERE sensor_id = 's1' \
                      AND reading_at = '2026-10-25T23:30:00.000001Z' AND value = 23";
        assert_eq!(database.count(latest).await, 1, "{dialect:?}: a late reading is not the latest");
        fingerprints.push(fingerprint(&database).await);
    }
    assert!(fingerprints.windows(2).all(|pair| pair[0] == pair[1]), "{fingerprints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_sum_could_hold_are_refused_before_and_by_every_dialect() {
    let readings = [reading("s", 0, "2026-01-02T03:04:05Z", 1.7e308)];
    assert_eq!((batch(&readings).readings().count(), batch(&readings).rejected().len()), (0, 1));
    for dialect in dialects().await {
        let database = Database::create_with(dialect).await;
        // A good one first, so that there is a partition.
        let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
        let good = [reading("s", 1, "2026-01-02T03:04:05Z", 1.0)];
        store.write(batch(&good).readings()).await.unwrap();
        let client = database.client().await;
        let refused = client.execute("UPDATE readings_ingestion SET value = 1.7e308", &[]).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::CHECK_VIOLATION), "{dialect:?}: {refused:?}");
    }
}

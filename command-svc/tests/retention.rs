//! Days made ahead, days dropped, and what becomes of readings that come too late for theirs.

use crate::support::{Service, batch, config, produce, reading, rows_reach};
use command_svc::batch::Reason;
use command_svc::maintenance::LOCK;
use command_svc::retention::Retention;
use command_svc::store::Store;
use schema::migrations::Dialect;
use schema::{Timestamp, topics};
use testkit::kafka::Kafka;
use testkit::postgres::{Database, dialects};

fn days_ago(days: i64) -> String {
    let now = Timestamp::now().hour().as_micros();
    Timestamp::from_micros(now - days * 86_400_000_000).unwrap().to_string()
}

fn partition_of(at: &str) -> String {
    format!("readings_ingestion_{}", at[..10].replace('-', ""))
}

async fn is_there(database: &Database, table: &str) -> bool {
    let there = format!("SELECT (to_regclass('{table}') IS NOT NULL)::int::bigint");
    database.count(&there).await == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_readings_past_retention_go_their_hours_stay_and_late_ones_are_dead_letters() {
    for dialect in dialects().await {
        let (kafka, database) = (Kafka::create().await, Database::create_with(dialect).await);
        let service = Service::start(&kafka, database.url());
        for (number, days) in [(1, 40), (2, 30), (3, 12), (4, 11), (5, 0)] {
            produce(&kafka, &reading("s1", number, &days_ago(days), 1.0)).await;
        }
        rows_reach(&database, 5).await;
        service.stop().await;
        database.refresh_hours().await;

        // Kept are the ten days before today; a day is dropped one day after its readings began to be
        // refused.
        let mut config = config(&kafka, database.url());
        config.retention = Retention::days(10);
        let service = Service::start_with(config);
        testkit::wait::until("old rows are gone", async || {
            (database.count("SELECT count(*) FROM readings_ingestion").await == 2).then_some(())
        })
        .await;
        testkit::wait::until("what is empty to go, too", async || {
            (!is_there(&database, &partition_of(&days_ago(40))).await).then_some(())
        })
        .await;
        assert_eq!(is_there(&database, &partition_of(&days_ago(11))).await, dialect == Dialect::Postgres);
        let late = reading("s1", 6, &days_ago(30), 1.0);
        produce(&kafka, &late).await;
        produce(&kafka, &reading("s1", 7, &days_ago(9), 1.0)).await;
        rows_reach(&database, 3).await;
        let letter = kafka.read(topics::READING_DLQ).next().await;
        assert_eq!(letter.key, b"s1");
        assert_eq!(letter.header("reason"), Some("past-retention"));
        assert_eq!(letter.header("detail"), Some("reading is past retention: it is older than 10 days"));
        service.stop().await;

        database.refresh_hours().await;
        let hours = database.count("SELECT count(*) FROM sensor_reading_hourly_aggregates").await;
        assert_eq!(hours, 6, "{dialect:?}: the hours of dropped readings stay, the refused one adds none");
        let kept_from = "SELECT (readings_kept_from < now() - INTERVAL '11 days' \
                         AND readings_kept_from > now() - INTERVAL '13 days')::int::bigint FROM storage_contract";
        assert_eq!(database.count(kept_from).await, 1, "{dialect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_dropped_is_not_made_again() {
    if !dialects().await.contains(&Dialect::Postgres) {
        return; // no other dialect has partitions of its own
    }
    let (kafka, database) = (Kafka::create().await, Database::create_with(Dialect::Postgres).await);
    let client = database.client().await;
    client.execute("SELECT ensure_reading_partition('2026-01-01')", &[]).await.unwrap();
    let drop = "SELECT drop_readings_before('2026-02-01')::bigint";
    assert_eq!((database.count(drop).await, database.count(drop).await), (1, 0));
    // Another instance still believes that it keeps everything.
    let service = Service::start(&kafka, database.url());
    produce(&kafka, &reading("s1", 1, "2026-01-31T23:59:59.999999Z", 1.0)).await;
    produce(&kafka, &reading("s1", 2, "2026-02-01T00:00:00Z", 1.0)).await;
    rows_reach(&database, 1).await;
    let letter = kafka.read(topics::READING_DLQ).next().await;
    assert_eq!(letter.header("reason"), Some("past-retention"));
    assert_eq!(letter.header("detail"), Some("reading is past retention"));
    service.stop().await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_by_one_instance_at_a_time() {
    if !dialects().await.contains(&Dialect::Postgres) {
        return; // no other dialect has partitions of its own
    }
    let (kafka, database) = (Kafka::create().await, Database::create_with(Dialect::Postgres).await);
    let other = database.client().await;
    other.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.unwrap();
    let service = Service::start(&kafka, database.url());
    testkit::wait::until("a turn", async || {
        (service.metric("command_maintenance_success_timestamp_seconds") > Some(0.0)).then_some(())
    })
    .await;
    let last_day = partition_of(&days_ago(-3));
    assert!(!is_there(&database, &last_day).await, "another instance is at it");
    other.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await.unwrap();
    testkit::wait::until("partitions", async || is_there(&database, &last_day).await.then_some(())).await;
    assert!(is_there(&database, &partition_of(&days_ago(0))).await);
    assert_eq!(service.metric("command_maintenance_failures_total"), Some(0.0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_made_while_another_writes() {
    if !dialects().await.contains(&Dialect::Postgres) {
        return; // no other dialect has partitions of its own
    }
    let database = Database::create_with(Dialect::Postgres).await;
    let mut writer = database.client().await;
    writer.execute("SELECT ensure_reading_partition('2026-01-01')", &[]).await.unwrap();
    let transaction = writer.transaction().await.unwrap();
    let row = "INSERT INTO readings_ingestion \
               VALUES ('a', 'm', '2026-01-01 12:00Z', 1, gen_random_uuid(), now(), 'T', 'z')";
    transaction.execute(row, &[]).await.unwrap();
    let maker = database.client().await;
    maker
        .batch_execute("SET lock_timeout = '5s'; SELECT ensure_reading_partition('2026-01-02')")
        .await
        .unwrap();
    // A day in use stays, and whoever asked is told at once instead of holding everybody up.
    let refused = maker.execute("SELECT drop_readings_before('2026-01-02')", &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03");
    transaction.commit().await.unwrap();
    maker.execute("SELECT drop_readings_before('2026-01-02')", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn days_go_while_writers_never_let_the_table_go() {
    if !dialects().await.contains(&Dialect::Postgres) {
        return; // no other dialect has partitions of its own
    }
    let database = Database::create_with(Dialect::Postgres).await;
    let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
    let days = ["2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z", "2026-01-03T12:00:00Z"];
    let readings: Vec<_> = days.iter().zip(1..).map(|(day, n)| reading("s1", n, day, 1.0)).collect();
    assert_eq!(store.write(batch(&readings).readings()).await.unwrap(), 3);
    // Two lanes that catch up: at every moment one of them has written to the third day and not committed
    // yet.
    let mut lanes = [database.client().await, database.client().await];
    let [one, other] = &mut lanes;
    let row = "INSERT INTO readings_ingestion \
               VALUES ('a', 'm', '2026-01-03 12:00Z', 1, gen_random_uuid(), now(), 'T', 'z')";
    one.batch_execute(&format!("BEGIN; {row}")).await.unwrap();
    let drop = "SELECT drop_readings_before('2026-01-03')::bigint";
    let remove = "SELECT remove_empty_partition()::bigint";
    assert_eq!((database.count(drop).await, database.count(remove).await), (1, 0));
    other.batch_execute(&format!("BEGIN; {row}")).await.unwrap();
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!((database.count(drop).await, database.count(remove).await), (1, 0));
    assert_eq!(database.count(drop).await, 0);
    let old = "SELECT count(*) FROM readings_ingestion WHERE reading_at < '2026-01-03'";
    assert_eq!(database.count(old).await, 0);
    assert!(is_there(&database, "readings_ingestion_20260101").await, "the lanes have not let go yet");

    // A writer that made the day itself still believes in it.
    let late = [reading("s1", 1, days[0], 1.0)];
    let refused = store.write(batch(&late).readings()).await.unwrap_err();
    assert_eq!(refused.rejection(), (Reason::PastRetention, "reading is past retention".to_owned()));
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!((database.count(remove).await, database.count(remove).await), (1, 1));
    assert_eq!(database.count(remove).await, 0);
    assert!(!is_there(&database, "readings_ingestion_20260101").await);
    let hours = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";
    assert_eq!(database.count(hours).await, 3, "hours stay, and count nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_stands_in_for_none_of_ours() {
    for dialect in dialects().await.into_iter().filter(|dialect| *dialect != Dialect::Distributed) {
        let database = Database::create_with(dialect).await;
        let client = database.client().await;
        client
            .batch_execute("CREATE TEMPORARY TABLE storage_contract (readings_kept_from timestamptz)")
            .await
            .unwrap();
        client.execute("SELECT drop_readings_before('2020-01-01')", &[]).await.unwrap();
        let kept =
            "SELECT count(*) FROM public.storage_contract WHERE readings_kept_from = '2020-01-01 00:00Z'";
        assert_eq!(database.count(kept).await, 1, "{dialect:?}");
    }
}

//! Crashes and outages.

use crate::support::{Service, committed, config, members, produce, reading, rows_reach};
use command_svc::batch::Batch;
use command_svc::parcel::Parcel;
use command_svc::store::Store;
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::postgres::{Database, dialects};
use testkit::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_between_rows_and_offsets_stores_each_reading_once() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    for number in 0..200 {
        produce(&kafka, &reading(&format!("s{}", number % 7), number, "2026-01-02T03:04:05Z", 1.0)).await;
    }
    // A predecessor that wrote a part and died before it committed any offset.
    let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
    let mut parcel = Parcel::new("".into());
    let reader = kafka.read(schema::topics::READINGS);
    for _ in 0..80 {
        let record = reader.next().await;
        parcel.push_owned(&rdkafka::message::OwnedMessage::new(
            record.value,
            Some(record.key),
            String::new(),
            rdkafka::Timestamp::NotAvailable,
            record.partition,
            record.offset,
            None,
        ));
    }
    let mut batch = Batch::default();
    batch.push(parcel);
    assert_eq!(store.write(batch.readings()).await.unwrap(), 80);
    assert_eq!(store.write(batch.readings()).await.unwrap(), 0, "the same batch again inserts no rows");

    let first = Service::start(&kafka, database.url());
    rows_reach(&database, 100).await;
    first.kill().await;
    let second = Service::start(&kafka, database.url());
    rows_reach(&database, 200).await;
    second.stop().await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 200);
    assert_eq!(database.count("SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_wait_while_the_database_is_away_and_then_land() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let service = Service::start(&kafka, database.url());
    produce(&kafka, &reading("s", 0, "2026-01-02T03:04:05Z", 1.0)).await;
    rows_reach(&database, 1).await;
    service.ready().await;

    // Away: nobody may connect, and those who are connected are cut off.
    let admin =
        chassis::postgres::Settings::local(testkit::setting("TEST_DATABASE_URL")).connect().await.unwrap();
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(cut, &[&name]).await.unwrap();
    for number in 1..=1_200 {
        produce(&kafka, &reading("s", number, "2026-01-02T03:04:05Z", 1.0)).await; // more than two batches
    }
    service.not_ready().await;
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
    rows_reach(&database, 1_201).await;
    service.ready().await;
    service.stop().await;
}

/// Tries that fail while the database is away; with their backoff they take longer than a silent member is
/// kept.
const TRIES: f64 = 8.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_costs_neither_the_membership_nor_an_offset() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let (proxy, url) = Proxy::before(database.url()).await;
    let service = Service::start(&kafka, &url);
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;
    testkit::wait::until("offsets", async || (committed(&kafka) == 10).then_some(())).await;
    let before = members(&kafka);

    proxy.cut();
    produce_numbers(&kafka, 10..3_000).await; // more than the lanes hold, so partitions pause
    testkit::wait::until("many tries in vain", async || {
        (service.metric("command_retries_total")? >= TRIES).then_some(())
    })
    .await;
    service.not_ready().await;
    assert_eq!((members(&kafka), committed(&kafka)), (before.clone(), 10));
    proxy.mend();
    all_are_stored_once(&database, 3_000).await;
    service.ready().await;
    assert_eq!(members(&kafka), before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_host_ends_the_second_takes_over() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let ((first, url), (second, _)) =
        (Proxy::before(database.url()).await, Proxy::before(database.url()).await);
    second.cut();
    let both = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
    let url = url.replace(&format!("127.0.0.1:{}", first.port()), &both);
    let service = Service::start(&kafka, &format!("{url}?target_session_attrs=read-write"));
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;

    first.cut();
    produce_numbers(&kafka, 10..300).await;
    service.not_ready().await;
    second.mend();
    all_are_stored_once(&database, 300).await;
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_the_database_is_away_at_the_start_is_a_clean_end() {
    let kafka = Kafka::create().await;
    let service =
        Service::start(&kafka, &format!("postgres://nobody@127.0.0.1:{}/none", testkit::free_port()));
    service.not_ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_our_schema_stops_the_service() {
    let (kafka, database) = (Kafka::create().await, Database::create_empty().await);
    let config = config(&kafka, database.url());
    let error = command_svc::run(config, chassis::Chassis::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("iotctl migrate"), "{error:#}");
}

const AT: &str = "2026-01-02T03:04:05Z";

/// A hung database answers nothing and closes nothing; a write waits twice as long as a statement may take.
const STATEMENT_MAX: Duration = Duration::from_millis(500);

async fn produce_numbers(kafka: &Kafka, numbers: std::ops::Range<u32>) {
    for number in numbers {
        produce(kafka, &reading(&format!("s{}", number % 7), number, AT, 1.0)).await;
    }
}

/// Every reading is a row and counts once in its hour.
async fn all_are_stored_once(database: &Database, count: i64) {
    rows_reach(database, count).await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, count);
    database.refresh_hours().await;
    let counted = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";
    assert_eq!(database.count(counted).await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_and_then_answers_costs_nothing_but_time() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let (proxy, url) = Proxy::before(database.url()).await;
    let mut config = config(&kafka, &url);
    config.postgres = config.postgres.with_statement_max(STATEMENT_MAX);
    let service = Service::start_with(config);
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;
    service.ready().await;
    testkit::wait::until("offsets", async || (committed(&kafka) == 10).then_some(())).await;

    proxy.stall();
    produce_numbers(&kafka, 10..300).await;
    service.not_ready().await;
    assert_eq!(committed(&kafka), 10, "no offset moves past what is not stored");
    proxy.resume();
    all_are_stored_once(&database, 300).await;
    service.ready().await;
    testkit::wait::until("offsets", async || (committed(&kafka) == 300).then_some(())).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_hang_for_ever_are_given_up_for_new_ones() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let (proxy, url) = Proxy::before(database.url()).await;
    let mut config = config(&kafka, &url);
    config.postgres = config.postgres.with_statement_max(STATEMENT_MAX);
    let service = Service::start_with(config);
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;

    proxy.stall();
    produce_numbers(&kafka, 10..300).await;
    service.not_ready().await;
    proxy.resume_for_new_connections();
    all_are_stored_once(&database, 300).await;
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_wait_while_the_database_is_read_only() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let service = Service::start(&kafka, database.url());
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;

    let admin = database.client().await;
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    let read_only = async |value: &str| {
        let change = format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
        admin.batch_execute(&change).await.unwrap();
        // As a server that changes its role: sessions begin anew.
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        admin.batch_execute(cut).await.unwrap();
    };
    read_only("on").await;
    produce_numbers(&kafka, 10..100).await;
    service.not_ready().await;
    // This time nobody cuts the sessions off: they were begun read-only and have to be given up.
    admin
        .batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = off"))
        .await
        .unwrap();
    all_are_stored_once(&database, 100).await;
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_wait_while_the_database_has_no_connection_left() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let admin = database.client().await;
    let role = testkit::unique("writer").replace('-', "_");
    // Limits do not hold for a superuser, so the service is an ordinary user here.
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'only-a-test';
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let (_, server) = database.url().split_once('@').unwrap();
    let service = Service::start(&kafka, &format!("postgres://{role}:only-a-test@{server}"));
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;

    admin.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 0")).await.unwrap();
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    admin.batch_execute(&cut).await.unwrap();
    produce_numbers(&kafka, 10..100).await;
    service.not_ready().await;
    admin.batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await.unwrap();
    all_are_stored_once(&database, 100).await;
    service.ready().await;
    service.stop().await;
    admin.batch_execute(&format!("{cut}; DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serialization_failure_is_tried_again_at_once_and_is_no_outage() {
    for dialect in dialects().await {
        let (kafka, database) = (Kafka::create().await, Database::create_with(dialect).await);
        if database.has_citus().await {
            continue; // the fault is a trigger
        }
        // A sequence is not rolled back, so the first five attempts fail and the others do not.
        database
            .client()
            .await
            .batch_execute(
                "CREATE SEQUENCE attempts;
                 CREATE FUNCTION fail_at_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF nextval('attempts') <= 5 THEN
                     RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
                   END IF;
                   RETURN NULL;
                 END $$;
                 CREATE TRIGGER fail_at_first AFTER INSERT ON sensor_latest
                   FOR EACH STATEMENT EXECUTE FUNCTION fail_at_first()",
            )
            .await
            .unwrap();
        produce_numbers(&kafka, 0..20).await;
        let service = Service::start(&kafka, database.url());
        all_are_stored_once(&database, 20).await;
        assert!(database.count("SELECT last_value FROM attempts").await > 5, "{dialect:?}");
        assert_eq!(service.metric("command_retries_total"), Some(0.0), "{dialect:?}");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_the_same_hours_under_serializable_isolation_lose_nothing() {
    for dialect in dialects().await {
        let database = Database::create_with(dialect).await;
        let name = database.url().rsplit_once('/').unwrap().1;
        let change = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
        database.client().await.batch_execute(&change).await.unwrap();
        let write = async |offset: u32| {
            let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
            for part in 0..20 {
                let numbers = (0..40).map(|number| offset + part * 40 + number);
                let readings: Vec<_> =
                    numbers.map(|number| reading(&format!("s{}", number % 7), number, AT, 1.0)).collect();
                let batch = crate::support::batch(&readings);
                // What the writer does, without its waits.
                while let Err(error) = store.write(batch.readings()).await {
                    assert!(matches!(error, command_svc::store::Error::Unavailable(_)), "{error:?}");
                }
            }
        };
        tokio::join!(write(0), write(10_000));
        all_are_stored_once(&database, 1_600).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_takes_writes_is_used() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let (head, rest) = database.url().split_once('@').unwrap();
    let (server, name) = rest.split_once('/').unwrap();
    let dead = testkit::free_port();
    let url = format!("{head}@127.0.0.1:{dead},{server}/{name}?target_session_attrs=read-write");
    let service = Service::start(&kafka, &url);
    produce_numbers(&kafka, 0..10).await;
    rows_reach(&database, 10).await;
    service.ready().await;
    service.stop().await;
}

//! Every reading once: batches cut short by a rebalance, instances side by side, a death between rows and
//! offsets.

use crate::support::{Service, committed, members, produce, reading, rows_reach};
use schema::migrations::Dialect;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::kafka::Kafka;
use testkit::postgres::Database;
use testkit::proxy::Proxy;
use testkit::wait::until;
use tokio_postgres::Client;

const AT: &str = "2026-01-02T03:04:05Z";
/// Inserts wait for whoever holds this; looking does not.
const LOCK: &str = "BEGIN; LOCK TABLE readings_ingestion IN EXCLUSIVE MODE";

pub(crate) async fn produce_numbers(kafka: &Kafka, numbers: std::ops::Range<u32>) {
    let produced = numbers.map(async |number| {
        produce(kafka, &reading(&format!("s{}", number % 13), number, AT, 1.0)).await;
    });
    futures::future::join_all(produced).await;
}

/// Says how many sessions of this database wait for a lock.
async fn waiting(database: &Database) -> i64 {
    database
        .count(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await
}

pub(crate) async fn lock(database: &Database) -> Client {
    let holder = database.client().await;
    holder.batch_execute(LOCK).await.unwrap();
    holder
}

/// Every reading is a row, counts once in its hour, and the group knows it.
pub(crate) async fn all_are_stored_once(kafka: &Kafka, database: &Database, count: i64) {
    rows_reach(database, count).await;
    until("offsets", async || (committed(kafka) == count).then_some(())).await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, count);
    assert_eq!(database.count("SELECT count(DISTINCT event_id) FROM readings_ingestion").await, count);
    database.refresh_hours().await;
    let counted = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";
    assert_eq!(database.count(counted).await, count);
}

/// Looks at offsets and then at rows, on and on while `during` runs. Each record of these tests is one row.
async fn offsets_stay_behind_rows<T>(
    kafka: &Arc<Kafka>,
    database: &Arc<Database>,
    during: impl Future<Output = T>,
) -> T {
    let stop = Arc::new(AtomicBool::new(false));
    let (kafka, database, stopped) = (Arc::clone(kafka), Arc::clone(database), Arc::clone(&stop));
    let looking = tokio::spawn(async move {
        let mut looks = 0;
        while !stopped.load(Ordering::Relaxed) {
            let offsets = tokio::task::block_in_place(|| committed(&kafka));
            let rows = database.count("SELECT count(*) FROM readings_ingestion").await;
            assert!(offsets <= rows, "{offsets} offsets are committed, and {rows} rows are there");
            looks += 1;
        }
        looks
    });
    let outcome = during.await;
    stop.store(true, Ordering::Relaxed);
    assert!(looking.await.unwrap() > 0);
    outcome
}

pub(crate) async fn stage() -> (Arc<Kafka>, Arc<Database>) {
    let (kafka, database) = tokio::join!(Kafka::create(), Database::create());
    (Arc::new(kafka), Arc::new(database))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_in_the_middle_of_a_batch_stores_it_once() {
    let (kafka, database) = stage().await;
    let story = async {
        let first = Service::start(&kafka, database.url());
        produce_numbers(&kafka, 0..200).await;
        all_are_stored_once(&kafka, &database, 200).await;

        let holder = lock(&database).await;
        produce_numbers(&kafka, 200..600).await;
        until("both lanes of the first to wait", async || (waiting(&database).await >= 2).then_some(()))
            .await;
        // Its batches are under way when half of its partitions go to the second, which reads the same
        // records again.
        let second = Service::start(&kafka, database.url());
        until("two members", async || (members(&kafka).len() == 2).then_some(())).await;
        until("the second to write, too", async || (waiting(&database).await >= 3).then_some(())).await;
        assert_eq!(committed(&kafka), 200);
        holder.batch_execute("ROLLBACK").await.unwrap();
        all_are_stored_once(&kafka, &database, 600).await;
        produce_numbers(&kafka, 600..700).await;
        all_are_stored_once(&kafka, &database, 700).await;
        first.stop().await;
        second.stop().await;
        assert_eq!(committed(&kafka), 700, "no late commit has moved an offset back");
    };
    offsets_stay_behind_rows(&kafka, &database, story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_to_a_second_instance_and_back_while_readings_come() {
    let (kafka, database) = stage().await;
    let story = async {
        let first = Service::start(&kafka, database.url());
        let mut produced = 0;
        let mut more = async |count: u32| {
            produce_numbers(&kafka, produced..produced + count).await;
            produced += count;
        };
        for _ in 0..2 {
            more(300).await;
            let second = Service::start(&kafka, database.url());
            until("a row of the second", async || {
                more(50).await;
                (second.metric("command_rows_inserted_total")? > 0.0).then_some(())
            })
            .await;
            let before = first.metric("command_rows_inserted_total").unwrap();
            more(300).await;
            until("rows of the first beside it", async || {
                more(50).await;
                (first.metric("command_rows_inserted_total")? > before).then_some(())
            })
            .await;
            second.stop().await;
            until("one member", async || (members(&kafka).len() == 1).then_some(())).await;
            more(300).await;
        }
        all_are_stored_once(&kafka, &database, produced.into()).await;
        first.stop().await;
        assert_eq!(committed(&kafka), i64::from(produced));
    };
    offsets_stay_behind_rows(&kafka, &database, story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_that_die_and_return_store_everything_once() {
    let (kafka, database) = stage().await;
    let story = async {
        let (mut one, mut two) =
            (Service::start(&kafka, database.url()), Service::start(&kafka, database.url()));
        for turn in 0..4 {
            let before = database.count("SELECT count(*) FROM readings_ingestion").await;
            produce_numbers(&kafka, turn * 500..(turn + 1) * 500).await;
            rows_reach(&database, before + 100).await;
            // In the middle of whatever it does, in turns.
            let victim = if turn % 2 == 0 { &mut one } else { &mut two };
            std::mem::replace(victim, Service::start(&kafka, database.url())).kill().await;
        }
        all_are_stored_once(&kafka, &database, 2_000).await;
        one.stop().await;
        two.stop().await;
    };
    offsets_stay_behind_rows(&kafka, &database, story).await;
}

/// The program itself, which can be killed as nothing else can, and which ends with this value.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // Err means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(kafka: &Kafka, database_url: &str) -> Process {
    let child = testkit::process::command(env!("CARGO_BIN_EXE_command-svc"))
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap)
        .env("KAFKA_TOPIC_PREFIX", &kafka.prefix)
        .env("DATABASE_URL", database_url)
        .env("LOG", "warn")
        .stdin(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_the_rows_and_the_offsets_costs_a_redelivery_and_nothing_else() {
    let (kafka, database) = stage().await;
    if database.dialect == Dialect::Distributed {
        return; // it needs a batch that is one statement, which the server finishes without the service
    }
    let (proxy, url) = Proxy::before(database.url()).await;
    let mut process = spawn(&kafka, &url);
    produce_numbers(&kafka, 0..50).await;
    all_are_stored_once(&kafka, &database, 50).await;

    // A small batch is one statement. It is at the server and waits; then the way back is closed, and the
    // server goes on: the rows are there, and the service does not know it.
    let holder = lock(&database).await;
    produce_numbers(&kafka, 50..60).await;
    until("a write that waits", async || (waiting(&database).await >= 1).then_some(())).await;
    proxy.stall();
    holder.batch_execute("ROLLBACK").await.unwrap();
    until("rows behind its back", async || {
        (database.count("SELECT count(*) FROM readings_ingestion").await > 50).then_some(())
    })
    .await;
    assert_eq!(committed(&kafka), 50);
    process.kill();

    let service = Service::start(&kafka, database.url());
    all_are_stored_once(&kafka, &database, 60).await;
    assert!(service.metric("command_rows_duplicate_total").unwrap() > 0.0, "it was delivered again");
    service.stop().await;
}

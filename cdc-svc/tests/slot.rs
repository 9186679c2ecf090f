//! A slot that does not continue what the topics hold is no slot.

use crate::support::{DEVICES, Stage, expect};
use testkit::postgres::Database;
use testkit::server::Server;
use testkit::wait::until;

/// Takes the snapshot of `a` and `b`, and makes the slot anew while changes fall between the two slots.
async fn made_anew() -> Stage {
    let stage = Stage::set().await;
    for id in ["a", "b"] {
        stage.add_device(id).await;
    }
    stage.take_snapshot().await;
    stage.sql.execute("SELECT pg_drop_replication_slot($1)", &[&stage.slot]).await.unwrap();
    stage.run("DELETE FROM devices WHERE sensor_id = 'a'").await;
    stage.add_device("c").await;
    let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    stage.sql.execute(make, &[&stage.slot]).await.unwrap();
    stage
}

#[tokio::test]
async fn slot_that_somebody_made_anew_leads_to_a_new_snapshot() {
    let stage = made_anew().await;
    let service = stage.start();
    service.is_ready().await;
    stage.add_device("d").await;
    let held = stage.topic_mirrors_devices().await;
    assert_eq!(held.into_keys().collect::<Vec<_>>(), ["b", "c", "d"]);
    assert!((service.metric("cdc_snapshots_total") - 1.0).abs() < f64::EPSILON);
    stage.stop(service).await;
}

#[tokio::test]
async fn slot_that_was_there_before_the_first_start_leads_to_a_snapshot() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    stage.sql.execute(make, &[&stage.slot]).await.unwrap();
    let service = stage.start();
    expect(&stage.kafka.read(DEVICES), &["r a 1"]).await;
    stage.stop(service).await;
}

#[tokio::test]
async fn slot_of_ours_is_gone_on_with_however_much_wal_of_other_tables_went_by() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    stage.take_snapshot().await;
    for round in 0..3 {
        let service = stage.start();
        service.is_ready().await;
        let other = format!("CREATE TABLE other_{round} AS SELECT n FROM generate_series(1, 20000) n");
        stage.run(&other).await;
        let behind = format!(
            "SELECT count(*) FROM pg_replication_slots \
             WHERE slot_name = '{}' AND confirmed_flush_lsn < pg_current_wal_lsn() - 100000::numeric",
            stage.slot
        );
        until("the slot to follow", async || (stage.database.count(&behind).await == 0).then_some(())).await;
        let snapshots = service.metric("cdc_snapshots_total");
        assert!(snapshots < 0.5, "round {round} took {snapshots}");
        stage.stop(service).await;
    }
}

#[tokio::test]
async fn slot_that_lost_its_wal_leads_to_a_new_snapshot_that_finds_what_was_deleted() {
    let server =
        Server::start(&["max_slot_wal_keep_size=1MB", "max_wal_size=32MB", "min_wal_size=32MB"]).await;
    let stage = Stage::set_on(Database::create_on(&server).await).await;
    for id in ["a", "b"] {
        stage.add_device(id).await;
    }
    stage.take_snapshot().await;
    stage.run("DELETE FROM devices WHERE sensor_id = 'a'").await;
    let lost = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}' AND wal_status = 'lost'",
        stage.slot
    );
    until("the slot to be lost", async || {
        let fill = "CREATE TABLE filler AS SELECT n FROM generate_series(1, 100000) n; DROP TABLE filler";
        stage.run(fill).await;
        stage.run("SELECT pg_switch_wal()").await;
        stage.run("CHECKPOINT").await;
        (stage.database.count(&lost).await == 1).then_some(())
    })
    .await;
    let service = stage.start();
    service.is_ready().await;
    stage.add_device("c").await;
    let held = stage.topic_mirrors_devices().await;
    assert_eq!(held.into_keys().collect::<Vec<_>>(), ["b", "c"]);
    stage.stop(service).await;
}

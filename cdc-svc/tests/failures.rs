//! What is not lost, whatever ends.

use crate::support::{DEVICES, Service, Stage, expect, next};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use testkit::wait::until;

#[tokio::test]
async fn change_made_while_the_service_is_down_arrives() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let service = stage.start();
    service.is_ready().await;
    stage.stop(service).await;
    stage.add_device("b").await;
    stage.run("DELETE FROM devices WHERE sensor_id = 'a'").await;
    let service = stage.start();
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["r a 1", "c b 1", "d a 1", "tombstone a"]).await;
    stage.stop(service).await;
}

#[tokio::test]
async fn service_aborted_again_and_again_loses_nothing_and_reorders_nothing() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let devices = stage.kafka.read(DEVICES);
    let mut version = 1;
    let mut seen = 0;
    stage.take_snapshot().await;
    for _ in 0..4 {
        let service = stage.start();
        for _ in 0..25 {
            version += 1;
            stage.run(&format!("UPDATE devices SET version = {version}")).await;
        }
        // The abort falls somewhere between an acknowledgement and its confirmation.
        while seen < version - 20 {
            seen = follow(&devices, seen).await;
        }
        stage.abort(service).await;
    }
    let service = stage.start();
    while seen < version {
        seen = follow(&devices, seen).await;
    }
    stage.stop(service).await;
}

/// Reads one change. Its version is the next one, or one that was seen before.
async fn follow(reader: &testkit::kafka::Reader, seen: i64) -> i64 {
    let change = next(reader).await;
    let version: i64 = change.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(version <= seen + 1 || seen == 0, "{change} follows version {seen}");
    version.max(seen)
}

#[tokio::test]
async fn killed_process_loses_no_change() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let devices = stage.kafka.read(DEVICES);
    let mut version = 1;
    let mut seen = 0;
    stage.take_snapshot().await;
    for _ in 0..2 {
        let process = stage.spawn();
        while seen < version {
            seen = follow(&devices, seen).await;
        }
        for _ in 0..50 {
            version += 1;
            stage.run(&format!("UPDATE devices SET version = {version}")).await;
        }
        stage.kill(process).await;
    }
    let service = stage.start();
    while seen < version {
        seen = follow(&devices, seen).await;
    }
    stage.stop(service).await;
}

#[tokio::test]
async fn process_killed_in_its_snapshot_leaves_no_hole() {
    let stage = Stage::set().await;
    let rows = 3 * cdc_svc::sink::RECORDS_MAX;
    stage
        .run(&format!(
            "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
             SELECT 'd' || n, 't', 'z', 'json', 'active' FROM generate_series(1, {rows}) n"
        ))
        .await;
    let process = stage.spawn();
    let first = next(&stage.kafka.read(DEVICES)).await;
    stage.kill(process).await;
    // Published already, gone before the service is back.
    let id = first.split(' ').nth(1).unwrap();
    stage.run(&format!("DELETE FROM devices WHERE sensor_id = '{id}'")).await;
    stage.run("UPDATE devices SET version = 2 WHERE sensor_id = 'd500'").await;
    stage.add_device("new").await;
    let service = stage.start();
    let held = stage.topic_mirrors_devices().await;
    assert_eq!(held.len(), rows);
    stage.stop(service).await;
}

#[tokio::test]
async fn lost_slot_leads_to_a_new_snapshot_that_finds_what_was_deleted() {
    let stage = Stage::set().await;
    for id in ["a", "b"] {
        stage.add_device(id).await;
    }
    let service = stage.start();
    service.is_ready().await;
    stage.stop(service).await;
    stage.sql.execute("SELECT pg_drop_replication_slot($1)", &[&stage.slot]).await.unwrap();
    stage.run("DELETE FROM devices WHERE sensor_id = 'a'; UPDATE devices SET version = 2").await;
    let service = stage.start();
    let devices = stage.kafka.read(DEVICES);
    let mut first = [next(&devices).await, next(&devices).await];
    first.sort();
    assert_eq!(first, ["r a 1", "r b 1"]);
    expect(&devices, &["d a 1", "tombstone a", "r b 2"]).await;
    stage.add_device("c").await;
    expect(&devices, &["c c 1"]).await;
    stage.stop(service).await;
}

/// Starts a replica that works, and one that waits for it.
async fn two_replicas() -> (Stage, Service, Service) {
    let stage = Stage::set().await;
    let first = stage.start();
    first.is_ready().await;
    until("the first to work", async || first.is_active().then_some(())).await;
    let second = stage.start();
    second.is_ready().await;
    assert!(!second.is_active());
    (stage, first, second)
}

#[tokio::test]
async fn replica_waits_ready_and_takes_over() {
    let (stage, first, second) = two_replicas().await;
    stage.add_device("a").await;
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["c a 1"]).await;
    first.end().await;
    until("the second to work", async || second.is_active().then_some(())).await;
    stage.add_device("b").await;
    // What the first did not confirm in time comes again, before anything new.
    let mut change = next(&devices).await;
    while change == "c a 1" {
        change = next(&devices).await;
    }
    assert_eq!(change, "c b 1");
    stage.stop(second).await;
}

#[tokio::test]
async fn replica_that_waits_looks_at_the_slot_over_one_connection() {
    let (stage, first, second) = two_replicas().await;
    let looks = "SELECT pid, query_start::text FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_replication_slots%'";
    let mut seen: BTreeMap<i32, BTreeSet<String>> = BTreeMap::new();
    until("five looks over one connection", async || {
        for row in stage.sql.query(looks, &[]).await.unwrap() {
            seen.entry(row.get(0)).or_default().insert(row.get(1));
        }
        seen.values().any(|starts| starts.len() >= 5).then_some(())
    })
    .await;
    first.end().await;
    until("the second to work", async || second.is_active().then_some(())).await;
    stage.stop(second).await;
}

#[tokio::test]
async fn session_cut_by_the_server_is_begun_again() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    let devices = stage.kafka.read(DEVICES);
    for id in ["a", "b", "c"] {
        let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
        stage.sql.execute(cut, &[&stage.slot]).await.unwrap();
        stage.add_device(id).await;
        devices
            .find(|record| {
                record.value.is_some() && record.text().contains(&format!("\"sensor_id\":\"{id}\""))
            })
            .await;
    }
    stage.stop(service).await;
}

/// Records a migration of a later release in the history, as `iotctl migrate` of that release does.
async fn migrate_further(stage: &Stage, version: i32, name: &str) {
    let row =
        "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) VALUES ($1, $2, '', '')";
    stage.sql.execute(row, &[&version, &name]).await.unwrap();
}

#[tokio::test]
async fn session_goes_on_with_a_newer_schema_until_one_breaks_with_it() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    let devices = stage.kafka.read(DEVICES);
    let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
    migrate_further(&stage, schema::migrations::VERSION + 1, "add_notes").await;
    stage.sql.execute(cut, &[&stage.slot]).await.unwrap();
    stage.add_device("a").await;
    expect(&devices, &["c a 1"]).await;
    migrate_further(&stage, schema::migrations::VERSION + 2, "breaking_notes").await;
    stage.sql.execute(cut, &[&stage.slot]).await.unwrap();
    let ended = format!("{:#}", service.ends().await);
    assert!(ended.contains("run a newer one"), "{ended}");
}

#[tokio::test]
async fn topic_that_is_made_anew_is_filled_by_a_new_snapshot() {
    let stage = Stage::set().await;
    stage.add_device("before").await;
    let service = stage.start();
    service.is_ready().await;
    stage.remove_topic().await;
    stage.add_device("a").await;
    let closed = async || service.chassis.readiness.closed().contains(&"kafka").then_some(());
    until("the service to be not ready", closed).await;
    stage.restore_topic().await;
    let devices = stage.kafka.read(DEVICES);
    let mut snapshot = [next(&devices).await, next(&devices).await];
    snapshot.sort();
    assert_eq!(snapshot, ["r a 1", "r before 1"]);
    service.is_ready().await;
    stage.stop(service).await;
}

#[tokio::test]
async fn slot_of_another_database_stops_the_service() {
    let (stage, other) = (Stage::set().await, Stage::set().await);
    other
        .sql
        .execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&stage.slot])
        .await
        .unwrap();
    let chassis = chassis::Chassis::new();
    let config = cdc_svc::Config {
        kafka: stage.kafka.settings(),
        postgres: stage.database.settings(),
        slot: stage.slot.clone(),
        stall_max: Duration::from_secs(120),
    };
    let error = cdc_svc::run(config, chassis).await.unwrap_err();
    assert!(error.to_string().contains("CDC_SLOT"), "{error:#}");
}

#[tokio::test]
async fn publication_that_lacks_a_table_stops_the_service() {
    let stage = Stage::set().await;
    stage.run("ALTER PUBLICATION fieldline_changes DROP TABLE devices").await;
    let error = stage.start().ended().await.unwrap_err();
    assert!(error.to_string().contains("lacks") || format!("{error:#}").contains("lacks"), "{error:#}");
}

#[tokio::test]
async fn slot_that_another_client_holds_and_does_not_move_is_seen_by_whoever_waits() {
    let stage = Stage::set().await;
    stage.take_snapshot().await;
    // It holds the slot, answers the server, and confirms nothing.
    let zombie = stage.hold_slot().await;
    let service = stage.start_with(Duration::from_secs(3));
    service.is_ready().await;
    stage.add_device("a").await;
    until("the standstill to be seen", async || {
        (service.chassis.readiness.closed() == ["progress"]).then_some(())
    })
    .await;
    assert!(service.metric("cdc_slot_lag_bytes") > 0.0 && service.metric("cdc_stalls_total") == 1.0);
    // Its restart would help nobody.
    until("twice the time", async || (service.metric("cdc_slot_lag_seconds") > 8.0).then_some(())).await;
    assert!(service.chassis.liveness.is_live());
    drop(zombie);
    expect(&stage.kafka.read(DEVICES), &["c a 1"]).await;
    service.is_ready().await;
    // Other tests write WAL all the time, which is let go now and then.
    until("the lag to be gone", async || (service.metric("cdc_slot_lag_seconds") < 5.0).then_some(())).await;
    stage.stop(service).await;
}

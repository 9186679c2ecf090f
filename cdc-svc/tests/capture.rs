//! What arrives, and in which order.

use crate::support::{DEVICES, Stage, THRESHOLDS, expect, key, value};
use schema::{Change, DeviceRow, DeviceStatus, Mode, Op, Scope, Severity, ThresholdRow, Timestamp};
use std::time::Instant;
use testkit::wait::until;
use uuid::Uuid;

#[tokio::test]
async fn snapshot_comes_first_and_changes_follow_in_commit_order() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    stage.add_device("b").await;
    let service = stage.start();
    let devices = stage.kafka.read(DEVICES);
    let mut snapshot = [crate::support::next(&devices).await, crate::support::next(&devices).await];
    snapshot.sort();
    assert_eq!(snapshot, ["r a 1", "r b 1"]);
    service.is_ready().await;

    stage.add_device("c").await;
    stage.run("UPDATE devices SET version = 2 WHERE sensor_id = 'a'").await;
    stage.run("BEGIN; UPDATE devices SET version = 2 WHERE sensor_id = 'b'; UPDATE devices SET version = 3 WHERE sensor_id = 'b'; DELETE FROM devices WHERE sensor_id = 'a'; COMMIT").await;
    stage.run("UPDATE devices SET sensor_id = 'd' WHERE sensor_id = 'c'").await;
    expect(
        &devices,
        &["c c 1", "u a 2", "u b 2", "u b 3", "d a 2", "tombstone a", "d c 1", "tombstone c", "c d 1"],
    )
    .await;
    stage.stop(service).await;
}

#[tokio::test]
async fn every_column_arrives_as_the_contract_says() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    let id = Uuid::new_v4();
    stage
        .run(&format!(
            "INSERT INTO devices (sensor_id, display_name, device_type, zone_id, codec, status, fingerprints, \
             version, created_at, updated_at) VALUES ('s', 'Küche', 'THERMOSTAT', 'zone', 'json', 'suspended', \
             ARRAY['ab', 'c\"d', 'NULL', ''], 9007199254740993, '2026-01-02 03:04:05.000006+00', now());
             INSERT INTO sensor_thresholds (threshold_id, sensor_id, metric, min_value, max_value, severity, \
             mode, description, version, created_at, updated_at) VALUES ('{id}', 's', 'temperature', NULL, 30.1, 'critical', \
             'shadow', 'zu heiß \"!\"', 7, '2026-01-02 03:04:05.000006+00', '2026-01-02 04:04:05+01')"
        ))
        .await;
    let record = stage.kafka.read(THRESHOLDS).next().await;
    assert_eq!(key(&record)["threshold_id"], id.to_string());
    let change = Change::<ThresholdRow>::decode(record.text().as_bytes()).unwrap();
    let after = change.after.unwrap();
    assert_eq!((change.op, change.before), (Op::Create, None));
    assert_eq!((after.threshold_id, after.min_value, after.max_value), (id, None, Some(30.1)));
    assert_eq!((after.severity, after.mode, after.version), (Severity::Critical, Mode::Shadow, 7));
    assert_eq!(after.scope, Scope::Sensor("s".to_owned()));
    assert_eq!(after.description, "zu heiß \"!\"");
    assert_eq!(after.created_at, Timestamp::parse("2026-01-02T03:04:05.000006Z").unwrap());
    assert_eq!(after.updated_at, Timestamp::parse("2026-01-02T03:04:05Z").unwrap());
    assert_eq!(
        (change.source.table.as_str(), change.source.schema.as_str()),
        ("sensor_thresholds", "public")
    );
    assert_eq!(
        (change.source.connector.as_str(), change.source.snapshot.as_deref()),
        ("postgresql", Some("false"))
    );
    assert!(stage.database.url().ends_with(&change.source.db) && change.source.lsn > Some(0));

    let record = stage.kafka.read(DEVICES).next().await;
    assert_eq!(key(&record)["sensor_id"], "s");
    let after = Change::<DeviceRow>::decode(record.text().as_bytes()).unwrap().after.unwrap();
    assert_eq!((after.status, after.version), (DeviceStatus::Suspended, 9_007_199_254_740_993));
    assert_eq!(after.fingerprints, ["ab", "c\"d", "NULL", ""]);
    assert_eq!(value(&record)["after"]["created_at"], "2026-01-02T03:04:05.000006Z");
    stage.stop(service).await;
}

#[tokio::test]
async fn snapshot_writes_the_same_row_as_the_stream() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    stage.run("UPDATE devices SET fingerprints = ARRAY['x,y', '\\\\'], display_name = 'ä'").await;
    let service = stage.start();
    let devices = stage.kafka.read(DEVICES);
    let read = value(&devices.next().await);
    service.is_ready().await;
    stage.run("UPDATE devices SET version = version").await;
    let updated = value(&devices.next().await);
    assert_eq!((&read["op"], &updated["op"]), (&"r".into(), &"u".into()));
    assert_eq!(read["after"], updated["after"]);
    assert_eq!(read["after"], updated["before"]);
    assert_eq!(read["source"]["snapshot"], "true");
    stage.stop(service).await;
}

#[tokio::test]
async fn changes_of_one_transaction_share_its_lsn_and_keep_their_order() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    // More than one Kafka transaction may hold.
    let rows = i64::try_from(cdc_svc::sink::RECORDS_MAX).unwrap() + 500;
    stage
        .run(&format!(
            "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status, version) \
             SELECT 'd' || n, 't', 'z', 'json', 'active', n FROM generate_series(1, {rows}) n"
        ))
        .await;
    stage.add_device("last").await;
    let devices = stage.kafka.read(DEVICES);
    let mut lsn = None;
    for n in 1..=rows {
        let change = value(&devices.next().await);
        assert_eq!(change["after"]["version"], n);
        assert_eq!(*lsn.get_or_insert(change["source"]["lsn"].clone()), change["source"]["lsn"]);
    }
    let last = value(&devices.next().await);
    assert_eq!(last["after"]["sensor_id"], "last");
    assert!(last["source"]["lsn"].as_u64() > lsn.unwrap().as_u64());
    stage.stop(service).await;
}

#[tokio::test]
async fn truncate_deletes_every_row_of_the_topic() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    stage.add_device("a").await;
    stage.run("TRUNCATE devices CASCADE").await;
    stage.add_device("b").await;
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["c a 1", "d a 1", "tombstone a", "c b 1"]).await;
    stage.stop(service).await;
}

#[tokio::test]
async fn column_that_is_added_while_it_runs_arrives_with_the_next_change() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let service = stage.start();
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["r a 1"]).await;
    service.is_ready().await;
    stage.run("ALTER TABLE devices ADD COLUMN floor integer NOT NULL DEFAULT 3").await;
    stage.add_device("b").await;
    let added = value(&devices.next().await);
    assert_eq!((&added["op"], &added["after"]["floor"]), (&"c".into(), &3.into()));
    stage.run("UPDATE devices SET floor = 4, version = 2 WHERE sensor_id = 'a'").await;
    let updated = value(&devices.next().await);
    assert_eq!((&updated["before"]["floor"], &updated["after"]["floor"]), (&3.into(), &4.into()));
    assert!(Change::<DeviceRow>::decode(updated.to_string().as_bytes()).is_ok(), "readers pass over it");
    stage.run("ALTER TABLE devices DROP COLUMN floor; UPDATE devices SET version = 3").await;
    let dropped = value(&devices.next().await);
    assert!(dropped["after"].get("floor").is_none() && dropped["after"]["version"] == 3, "{dropped}");
    stage.stop(service).await;
}

#[tokio::test]
async fn wal_of_other_tables_is_let_go_while_nothing_changes() {
    let stage = Stage::set().await;
    let service = stage.start();
    service.is_ready().await;
    stage.run("CREATE TABLE other AS SELECT n FROM generate_series(1, 50000) n").await;
    let behind = format!(
        "SELECT count(*) FROM pg_replication_slots \
         WHERE slot_name = '{}' AND confirmed_flush_lsn < pg_current_wal_lsn() - 1000000::numeric",
        stage.slot
    );
    until("the slot to follow", async || (stage.database.count(&behind).await == 0).then_some(())).await;
    stage.stop(service).await;
}

/// Commits of the bulk load; fewer records than end a Kafka transaction by their number.
const LOAD: usize = cdc_svc::sink::RECORDS_MAX - 1_000;

#[tokio::test]
async fn suspension_during_a_bulk_load_is_visible_while_the_load_goes_on() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let service = stage.start();
    service.is_ready().await;
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["r a 1"]).await;
    // Commits from inside the server, with a little work in each: they follow each other within a fraction of
    // a millisecond.
    let load = stage.database.client().await;
    let loading = tokio::spawn(async move {
        let commits = format!(
            "DO $$ BEGIN FOR n IN 1..{LOAD} LOOP \
             INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
             VALUES ('d' || n, 't', 'z', 'json', 'active'); COMMIT; \
             PERFORM count(*) FROM generate_series(1, 3000); END LOOP; END $$"
        );
        load.batch_execute(&commits).await.unwrap();
    });
    let loaded = "SELECT count(*) FROM devices";
    until("the load to begin", async || (stage.database.count(loaded).await > 100).then_some(())).await;
    let suspended = Instant::now();
    stage.run("UPDATE devices SET status = 'suspended', version = 2 WHERE sensor_id = 'a'").await;
    while crate::support::next(&devices).await != "u a 2" {}
    let rows = stage.database.count(loaded).await;
    println!("visible after {:?}, at {rows} of {LOAD} commits", suspended.elapsed());
    assert!(!loading.is_finished(), "it came with the end of the load");
    loading.abort();
    stage.stop(service).await;
}

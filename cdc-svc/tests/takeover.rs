//! Of two replicas one works; when it ends, however that is, the other one does.

use crate::support::{DEVICES, Process, Stage, next};
use std::time::Instant;
use testkit::kafka::Reader;
use testkit::wait::until;

/// Returns the server process that serves the holder of the slot.
async fn holder(stage: &Stage) -> Option<i32> {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1 AND active";
    stage.sql.query_opt(sql, &[&stage.slot]).await.unwrap().map(|row| row.get(0))
}

/// Starts a process that works, and one that waits for it; returns the two and who serves the first.
async fn two_processes(stage: &Stage) -> (Process, Process, i32) {
    let first = stage.spawn();
    let served = until("the first to hold the slot", async || holder(stage).await).await;
    let second = stage.spawn();
    let standing_by = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND pid <> pg_backend_pid() AND query LIKE '%coalesce(plugin%'";
    until("the second to look at the slot", async || {
        (stage.database.count(standing_by).await > 0).then_some(())
    })
    .await;
    (first, second, served)
}

async fn find(devices: &Reader, change: &str) {
    while next(devices).await != change {}
}

#[tokio::test]
async fn killed_replica_is_replaced_within_seconds() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let devices = stage.kafka.read(DEVICES);
    let mut times = Vec::new();
    for version in 2..5 {
        let (mut first, second, served) = two_processes(&stage).await;
        let died = Instant::now();
        first.kill();
        stage.run(&format!("UPDATE devices SET version = {version}")).await;
        find(&devices, &format!("u a {version}")).await;
        times.push(died.elapsed());
        assert_ne!(holder(&stage).await, Some(served), "the second holds the slot");
        stage.kill(second).await;
    }
    times.sort();
    println!("from kill -9 of the one at work to the next change in the topic: {times:?}");
}

#[tokio::test]
async fn frozen_replica_is_replaced_when_the_server_has_lost_patience_and_writes_nothing_afterwards() {
    let stage = Stage::set().await;
    stage.add_device("a").await;
    let devices = stage.kafka.read(DEVICES);
    let (first, second, served) = two_processes(&stage).await;
    find(&devices, "r a 1").await;
    let froze = Instant::now();
    first.freeze();
    for version in 2..=50 {
        stage.run(&format!("UPDATE devices SET version = {version}")).await;
    }
    find(&devices, "u a 50").await;
    println!("from SIGSTOP of the one at work to the change in the topic: {:?}", froze.elapsed());
    first.thaw();
    // It has the changes in its socket's buffer, and no right to write them any more.
    let standing_by = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND pid <> pg_backend_pid() AND query LIKE '%coalesce(plugin%'";
    until("the first to stand by", async || (stage.database.count(standing_by).await > 0).then_some(()))
        .await;
    assert_ne!(holder(&stage).await, Some(served));
    stage.run("UPDATE devices SET version = 51").await;
    let after = next(&devices).await;
    assert_eq!(after, "u a 51", "nothing old came in between");
    drop(first);
    stage.kill(second).await;
}

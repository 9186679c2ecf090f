//! A disk without room, a registry that cannot be followed, and the end of a process with messages in flight.

use crate::process::{PROGRAM, Process, set_limit};
use crate::raw::{Client, disconnect_reason, puback, publish};
use crate::spooling::{ready, spool_settings};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use nix::sys::signal::Signal;
use schema::{DeviceStatus, topics};
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;
use testkit::broker::Broker;
use testkit::wait;
use tokio::time::timeout;

/// Publishes one numbered reading of `bytes` and says whether there was a PUBACK before the connection ended.
async fn offer(client: &mut Client, device: &Registered, number: u16, bytes: usize) -> bool {
    let payload = format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(bytes));
    client.send(&publish(4, 1, number, &device.mqtt_topic(), payload.as_bytes())).await;
    match client.frame().await {
        Some(frame) => frame == puback(number),
        None => false,
    }
}

/// Reads until every number has been there.
async fn find_numbers(stack: &Stack, mut missing: HashSet<u16>) {
    let readings = stack.kafka.read(topics::READINGS);
    while !missing.is_empty() {
        let number = next_reading(&readings).await.values["number"];
        missing.retain(|one| f64::from(*one) != number);
    }
}

/// A gateway whose writes beyond a limit fail instead of ending it; what it says goes to a file.
fn spawn_limited(stack: &Stack, folder: &Path) -> Process {
    let mut command = testkit::process::command("sh");
    let log = File::create(folder.join("log")).unwrap();
    command.args(["-c", "trap '' XFSZ; exec \"$0\"", PROGRAM]).stdout(log.try_clone().unwrap()).stderr(log);
    Process::run(command, stack, &spool_settings(folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_whose_disk_has_no_room_acknowledges_nothing_and_goes_on_when_there_is_room() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &[]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let process = spawn_limited(&stack, folder.path());
    process.is_ready(true).await;
    let mut client = process.enter(&stack, &device, "c").await;
    broker.freeze();
    let (mut acknowledged, mut number) = (HashSet::new(), 1);
    assert!(offer(&mut client, &device, number, 10).await, "the spool takes it");
    acknowledged.insert(number);

    // The file may not become longer: what is free in it is all there is.
    let length = fs::metadata(folder.path().join("spool.redb")).unwrap().len();
    set_limit(process.id(), &format!("--fsize={length}:"));
    loop {
        number += 1;
        if !offer(&mut client, &device, number, 14_000).await {
            break;
        }
        acknowledged.insert(number);
    }
    process.is_ready(false).await;
    assert!(process.ask("/readyz").await.unwrap().contains("spool"));
    let mut again = process.enter(&stack, &device, "c").await;
    let is_acknowledged = timeout(QUIET, offer(&mut again, &device, number, 14_000)).await;
    assert!(is_acknowledged.is_err(), "nothing is acknowledged that is nowhere, and nobody is sent away");

    set_limit(process.id(), "--fsize=unlimited:");
    process.is_ready(true).await;
    assert_eq!(again.frame().await.unwrap(), puback(number), "there is room again");
    acknowledged.insert(number);
    broker.thaw();
    find_numbers(&stack, acknowledged).await;
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log.matches("it takes no records").count(), 1, "{log}");
    assert_eq!(log.matches("the spool's disk works again").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_that_cannot_be_read_holds_those_who_have_readings_there_and_nobody_else() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &[]).await;
    ready(&stack).await;
    let (held, free) = (stack.register("held-1").await, stack.register("free-1").await);
    let mut command = testkit::process::command("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\"", PROGRAM]);
    let process = Process::run(command, &stack, &spool_settings(folder.path()));
    process.is_ready(true).await;
    broker.freeze();
    let mut client = process.enter(&stack, &held, "c").await;
    assert!(offer(&mut client, &held, 1, 10).await, "the spool has it");

    // Nothing can be written, and the file that is then opened again is none.
    let (file, away) = (folder.path().join("spool.redb"), folder.path().join("away"));
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();
    set_limit(process.id(), "--fsize=0:");
    assert!(!offer(&mut client, &held, 2, 10).await, "neither Kafka nor the disk has it");
    process.is_ready(false).await;
    broker.thaw();
    let mut other = process.enter(&stack, &free, "c").await;
    assert!(offer(&mut other, &free, 3, 10).await, "Kafka has it");
    let mut again = process.enter(&stack, &held, "c").await;
    let is_acknowledged = timeout(QUIET, offer(&mut again, &held, 2, 10)).await;
    assert!(is_acknowledged.is_err(), "it would stand before the one on the disk");
    assert!(offer(&mut other, &free, 4, 10).await, "and keeps nobody else waiting");

    fs::remove_dir(&file).unwrap();
    fs::rename(&away, &file).unwrap();
    set_limit(process.id(), "--fsize=unlimited:");
    process.is_ready(true).await;
    assert_eq!(again.frame().await.unwrap(), puback(2));
    find_numbers(&stack, HashSet::from([1, 2, 3, 4])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_devices_connect_by_the_last_table_and_a_new_gateway_waits_for_its_own() {
    let (mut broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &spool_settings(&folder.path().join("one"))).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let stranger = stack.register_as("b-1", DeviceStatus::Suspended).await;
    // A device that is let in shows that the table is loaded; without that, the gateway would wait for Kafka
    // as a new one does.
    stack.dial(&device).await.enter(4, "before").await;
    wait::until("Kafka is there", async || (stack.metric("gateway_kafka_up") == 1.0).then_some(())).await;
    broker.kill().await;
    wait::until("Kafka is missed", async || (stack.metric("gateway_kafka_up") == 0.0).then_some(())).await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&publish(5, 1, 1, &device.mqtt_topic(), br#"{"number":1}"#)).await;
    assert_eq!(client.frame().await.unwrap(), puback(1));
    assert_eq!(stack.dial(&stranger).await.connect(5, "c").await.unwrap()[3], 0x87, "suspended is suspended");
    assert!(stack.chassis.readiness.closed().is_empty());

    let other = folder.path().join("other");
    let process = Process::spawn(&stack, &spool_settings(&other));
    process.is_ready(false).await;
    let dial = process.dial(&stack, &device);
    assert!(timeout(QUIET, dial).await.is_err(), "who knows no device lets none in");
    assert!(process.ask("/readyz").await.unwrap().contains("devices"));

    broker.restart().await;
    process.is_ready(true).await;
    process.enter(&stack, &device, "d").await;
    stack.change(&device, |row| row.status = DeviceStatus::Suspended).await;
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x98, "the table goes on");
    find_numbers(&stack, HashSet::from([1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gateway_accepts_nobody_spools_what_is_in_flight_and_ends_well() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &[]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let patient = [
        ("SPOOL_DIR", folder.path().to_str().unwrap()),
        ("SPOOL_PATIENCE_MS", "600000"),
        ("DRAIN_MS_MAX", "3000"),
    ];
    let mut process = Process::start(&stack, &patient).await;
    let mut client = process.dial(&stack, &device).await;
    client.enter(5, "c").await;
    broker.freeze();
    for number in 1..=5 {
        let payload = format!(r#"{{"number":{number}}}"#);
        client.send(&publish(5, 1, number, &device.mqtt_topic(), payload.as_bytes())).await;
    }
    wait::until("the messages are read", async || {
        (process.metric("gateway_publishes_total").await == 5.0).then_some(())
    })
    .await;
    assert_eq!(process.metric("gateway_acknowledgements_total").await, 0.0);
    process.signal(Signal::SIGTERM);
    let root = stack.pki.root_pem();
    wait::until("nobody is let in", async || {
        let dial = Client::dial(process.port, &root, Some(&device.certificate));
        timeout(Duration::from_secs(1), dial).await.ok()?.err()
    })
    .await;
    for number in 1..=5 {
        assert_eq!(client.frame().await.unwrap(), puback(number), "the spool has it");
    }
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x8b);
    assert_eq!(process.ended().await.code(), Some(0));
    broker.thaw();
    let _next = Process::spawn(&stack, &spool_settings(folder.path()));
    find_numbers(&stack, (1..=5).collect()).await;
}

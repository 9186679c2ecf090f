//! A thousand clients flood while Kafka stands still: memory stays within what is written down, who has room
//! is answered, and what was acknowledged is there in the end.

use crate::process::{Process, set_limit};
use crate::raw::{Client, PINGREQ, PINGRESP, puback, publish};
use crate::spooling::spool_settings;
use crate::stack::{Registered, Stack, next_reading};
use futures::future::join_all;
use schema::topics;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::broker::Broker;
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

const CLIENTS: usize = 1_000;
/// Clients of each device: the rate limit, by device, is not what this is about.
const CLIENTS_OF_A_DEVICE: usize = 20;
/// Messages of a client, and the text in each: 130 MB of all, eight times the budget.
const MESSAGES: u16 = 60;
const TEXT_BYTES: usize = 2_000;
/// `IN_FLIGHT_TOTAL_BYTES_MAX`.
const BUDGET_BYTES: usize = 16 << 20;
/// What a connection may take beside its records, where an idle one takes 24 KiB: a chunk of 16 KiB that is
/// read and finds no room, in a buffer of up to twice that, and a record of TLS that is not whole yet.
const CONNECTION_BYTES: usize = 48 << 10;
/// Messages of the client that is held back: more than its share of a window.
const HELD_MESSAGES: u16 = 120;

/// A client's messages, written as fast as the gateway reads; its PUBACKs, counted.
async fn flood(client: Client, topic: String, index: usize, acknowledged: Arc<AtomicUsize>) {
    let (mut read, mut write) = tokio::io::split(client.into_stream());
    let send = async {
        let text = "x".repeat(TEXT_BYTES);
        for number in 1..=MESSAGES {
            let payload = format!(r#"{{"client":{index},"number":{number},"text":"{text}"}}"#);
            if write.write_all(&publish(4, 1, number, &topic, payload.as_bytes())).await.is_err() {
                return;
            }
        }
        let _ = write.flush().await;
    };
    let receive = async {
        for number in 1..=MESSAGES {
            let mut frame = [0; 4];
            if read.read_exact(&mut frame).await.is_err() {
                return;
            }
            assert_eq!(frame[..], puback(number));
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    };
    tokio::join!(send, receive);
}

struct Flood {
    stack: Stack,
    process: Process,
    acknowledged: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
    calm: Registered,
}

/// Lets a thousand clients in, then has Kafka stand still, then has all of them send what they have.
async fn begin(broker: &Broker, settings: &[(&str, &str)]) -> Flood {
    // Of this process and the gateway's: a shell often allows 1,024 descriptors at first.
    set_limit(std::process::id(), "--nofile=8192:");
    let stack = Stack::boot(broker.topics().await, &[]).await;
    let mut devices = Vec::new();
    for number in 0..CLIENTS / CLIENTS_OF_A_DEVICE {
        devices.push(Arc::new(stack.register(&format!("flooder-{number}")).await));
    }
    let calm = stack.register("calm").await;
    let budget = BUDGET_BYTES.to_string();
    let settings = [&[("IN_FLIGHT_TOTAL_BYTES_MAX", budget.as_str())], settings].concat();
    let process = Process::start(&stack, &settings).await;
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        let device = &devices[index / CLIENTS_OF_A_DEVICE];
        clients.push((process.enter(&stack, device, &format!("c{index}")).await, device.mqtt_topic()));
    }
    broker.freeze();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let run = |(index, (client, topic))| tokio::spawn(flood(client, topic, index, acknowledged.clone()));
    let clients = clients.into_iter().enumerate().map(run).collect();
    Flood { stack, process, acknowledged, clients, calm }
}

impl Flood {
    /// Waits until nothing more is read.
    async fn stands_still(&self) {
        let (mut read, mut since) = (0.0, 0);
        wait::until("the gateway to read nothing more", async || {
            let now = self.process.metric("gateway_publishes_total").await;
            since = if now > read { 0 } else { since + 1 };
            read = now;
            (self.process.metric("gateway_read_pauses_total").await > 0.0 && since == 50).then_some(())
        })
        .await;
        assert!(read < (CLIENTS * usize::from(MESSAGES)) as f64, "the flood is larger than the room");
    }

    /// Every acknowledged message is on the topic.
    async fn ends_with_everything_kept(self) {
        join_all(self.clients).await.into_iter().for_each(|client| client.unwrap());
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        assert_eq!(acknowledged, CLIENTS * usize::from(MESSAGES), "everybody was served in the end");
        let (readings, mut found) = (self.stack.kafka.read(topics::READINGS), HashSet::new());
        while found.len() < acknowledged {
            let event = next_reading(&readings).await;
            if let Some(client) = event.values.get("client") {
                found.insert((client.to_bits(), event.values["number"].to_bits()));
            }
        }
    }
}

fn mib(bytes: usize) -> usize {
    bytes >> 20
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_flooding_clients_take_no_more_memory_than_is_written_down() {
    let broker = Broker::start().await;
    let flood = begin(&broker, &[]).await;
    let idle = flood.process.resident_bytes(false);
    flood.stands_still().await;
    let (resident, peak) = (flood.process.resident_bytes(false), flood.process.resident_bytes(true));
    // A record is held by the producer alone, but for the moment in which it is handed over.
    let budget = idle + BUDGET_BYTES + CLIENTS * CONNECTION_BYTES;
    println!(
        "1,000 clients, Kafka frozen: {} MiB when they were let in, {} MiB flooded, {} MiB at most; budget {} MiB",
        mib(idle),
        mib(resident),
        mib(peak),
        mib(budget)
    );
    assert!(peak <= budget, "{peak} bytes");

    let mut calm = flood.process.enter(&flood.stack, &flood.calm, "calm").await;
    calm.send(&PINGREQ).await;
    assert_eq!(calm.frame().await.unwrap(), PINGRESP, "who has nothing in flight is read");

    let mut held = flood.process.dial(&flood.stack, &flood.calm).await;
    held.connect_with(4, "held", 1).await.unwrap();
    let (topic, text) = (flood.calm.mqtt_topic(), "x".repeat(TEXT_BYTES));
    let payload = format!(r#"{{"held":1,"text":"{text}"}}"#);
    for number in 1..=HELD_MESSAGES {
        held.send(&publish(4, 1, number, &topic, payload.as_bytes())).await;
    }
    held.send(&PINGREQ).await;
    // The keep-alive of one that is read and says nothing runs out, so that of the other would have.
    let mut silent = flood.process.dial(&flood.stack, &flood.calm).await;
    silent.connect_with(4, "silent", 1).await.unwrap();
    assert_eq!(silent.frame().await, None);

    broker.thaw();
    let mut acknowledged = 0;
    let mut pinged = 0;
    while acknowledged < HELD_MESSAGES || pinged == 0 {
        let frame = held.frame().await.expect("nobody is closed for what the gateway did not read");
        if frame == PINGRESP {
            pinged += 1;
        } else {
            acknowledged += 1;
            assert_eq!(frame, puback(acknowledged));
        }
    }
    flood.ends_with_everything_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_flooding_clients_and_a_full_spool_take_no_more_memory_than_is_written_down() {
    /// Pages of the spool's file, two groups, and a batch that is read to be forwarded; see ADR 0008.
    const SPOOL_MEMORY_BYTES: usize = (32 + 2 * 8 + 4) << 20;
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let [dir, patience] = spool_settings(folder.path());
    let flood = begin(&broker, &[dir, patience, ("SPOOL_BYTES_MAX", "16777216")]).await;
    let idle = flood.process.resident_bytes(false);
    flood.process.is_ready(false).await;
    flood.stands_still().await;
    let peak = flood.process.resident_bytes(true);
    // A record is held by the producer, and as a copy until the spool has it.
    let budget = idle + 2 * BUDGET_BYTES + CLIENTS * CONNECTION_BYTES + SPOOL_MEMORY_BYTES;
    println!("the same with a full spool: {} MiB at most; budget {} MiB", mib(peak), mib(budget));
    assert!(peak <= budget, "{peak} bytes");
    broker.thaw();
    tokio::time::timeout(2 * wait::PATIENCE, flood.ends_with_everything_kept())
        .await
        .expect("everything is kept in time");
}

//! Kafka stalls, for real: the readings are acknowledged all the same, and Kafka gets them in the end.

use crate::process::Process;
use crate::raw::{Client, puback, publish};
use crate::stack::{Stack, next_reading};
use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions};
use schema::topics;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testkit::broker::Broker;
use testkit::kafka::{Kafka, Reader};
use testkit::wait;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) fn spool_settings(folder: &Path) -> [(&'static str, &str); 2] {
    [("SPOOL_DIR", folder.to_str().unwrap()), ("SPOOL_PATIENCE_MS", "300")]
}

pub(crate) async fn ready(stack: &Stack) {
    wait::until("the gateway is ready", async || stack.chassis.readiness.closed().is_empty().then_some(()))
        .await;
}

/// Publishes `{"seq":n}` in bursts, each acknowledged before the next, until it is told to end.
struct Sender {
    acknowledged: Arc<AtomicU32>,
    end: CancellationToken,
    running: JoinHandle<()>,
}

/// The shortest `STALL_MS_MAX`.
const STALL: Duration = Duration::from_secs(1);
/// Messages of one burst.
const BURST: u16 = 8;

impl Sender {
    fn start(mut client: Client, mqtt_topic: String) -> Self {
        let (acknowledged, end) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let (count, told) = (acknowledged.clone(), end.clone());
        let running = tokio::spawn(async move {
            while !told.is_cancelled() {
                burst(&mut client, &mqtt_topic, count.load(Ordering::SeqCst)).await;
                count.fetch_add(u32::from(BURST), Ordering::SeqCst);
            }
        });
        Self { acknowledged, end, running }
    }

    async fn has_sent_more(&self, bursts: u32) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + bursts * u32::from(BURST);
        wait::until("more is acknowledged", async || {
            (self.acknowledged.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
    }

    async fn end(self) -> u32 {
        self.end.cancel();
        self.running.await.unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn burst(client: &mut Client, mqtt_topic: &str, after: u32) {
    for packet_id in 1..=BURST {
        let payload = format!(r#"{{"seq":{}}}"#, after + u32::from(packet_id));
        client.send(&publish(4, 1, packet_id, mqtt_topic, payload.as_bytes())).await;
    }
    for packet_id in 1..=BURST {
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
    }
}

/// Reads until every sensor has its readings 1 to n; returns how many came again. Their order is that of
/// publishing, and what comes again has the same event id.
async fn find_all(readings: &Reader, expected: &HashMap<String, u32>) -> usize {
    let (mut last, mut ids, mut again) = (HashMap::<String, u32>::new(), HashMap::new(), 0);
    let mut distinct = HashSet::new();
    while expected.iter().any(|(sensor_id, count)| last.get(sensor_id).unwrap_or(&0) < count) {
        let event = next_reading(readings).await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a u32")]
        let seq = event.values["seq"] as u32;
        let at = (event.sensor_id.clone(), seq);
        if let Some(id) = ids.get(&at) {
            assert_eq!(*id, event.event_id, "what comes again is the same event");
            again += 1;
            continue;
        }
        assert!(distinct.insert(event.event_id), "different readings are different events");
        ids.insert(at, event.event_id);
        let last = last.entry(event.sensor_id).or_default();
        assert_eq!(seq, *last + 1, "the readings of a sensor become readable in their order");
        *last = seq;
    }
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_kafka_delays_no_puback_and_gets_every_reading_in_its_order() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &spool_settings(folder.path())).await;
    ready(&stack).await;
    let mut senders = Vec::new();
    for sensor_id in ["a-1", "b-1", "c-1"] {
        let device = stack.register(sensor_id).await;
        let mut client = stack.dial(&device).await;
        client.enter(4, "c").await;
        senders.push((device.sensor_id.clone(), Sender::start(client, device.mqtt_topic())));
    }
    for _ in 0..2 {
        for (_, sender) in &senders {
            sender.has_sent_more(5).await;
        }
        wait::until("nobody is held by the spool", async || {
            (stack.metric("gateway_spool_records") == 0.0).then_some(())
        })
        .await;
        broker.freeze();
        wait::until("the spool takes over", async || (stack.metric("gateway_spooling") == 1.0).then_some(()))
            .await;
        for (_, sender) in &senders {
            sender.has_sent_more(10).await;
        }
        assert!(stack.chassis.readiness.closed().is_empty(), "the spool stands in for Kafka");
        broker.thaw();
        wait::until("Kafka takes over again", async || {
            (stack.metric("gateway_spooling") == 0.0).then_some(())
        })
        .await;
    }
    let mut expected = HashMap::new();
    for (sensor_id, sender) in senders {
        sender.has_sent_more(5).await;
        expected.insert(sensor_id, sender.end().await);
    }
    let again = find_all(&stack.kafka.read(topics::READINGS), &expected).await;
    wait::until("the spool is empty", async || (stack.metric("gateway_spool_records") == 0.0).then_some(()))
        .await;
    let (appended, forwarded) =
        (stack.metric("gateway_spool_appended_total"), stack.metric("gateway_spool_forwarded_total"));
    eprintln!("{expected:?} readings, {appended} spooled, {forwarded} forwarded, {again} there twice");
    assert!(appended > 0.0 && forwarded >= appended);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarder_that_waits_for_a_frozen_kafka_is_not_stuck() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let [dir, patience] = spool_settings(folder.path());
    let stack = Stack::boot(broker.topics().await, &[dir, patience, ("STALL_MS_MAX", "1000")]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    broker.freeze();
    burst(&mut client, &device.mqtt_topic(), 0).await;
    let unready = async {
        while stack.chassis.readiness.closed().is_empty() && stack.chassis.liveness.is_live() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(STALL * 4, unready).await.is_err(), "its records wait for Kafka");
    broker.thaw();
    find_all(
        &stack.kafka.read(topics::READINGS),
        &HashMap::from([(device.sensor_id.clone(), u32::from(BURST))]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_stopped_gateway_forwards_what_it_acknowledged_when_it_runs_again() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &[]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut sent = 0;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut process = Process::start(&stack, &spool_settings(folder.path())).await;
        let mut client = process.enter(&stack, &device, "c").await;
        burst(&mut client, &device.mqtt_topic(), sent).await;
        broker.freeze();
        for index in 1..=10 {
            burst(&mut client, &device.mqtt_topic(), sent + index * u32::from(BURST)).await;
        }
        sent += 11 * u32::from(BURST);
        process.signal(signal);
        let status = process.ended().await;
        assert_eq!(status.code(), (signal == Signal::SIGTERM).then_some(0));
        broker.thaw();
    }
    let _last = Process::spawn(&stack, &spool_settings(folder.path()));
    let expected = HashMap::from([(device.sensor_id.clone(), sent)]);
    let again = find_all(&stack.kafka.read(topics::READINGS), &expected).await;
    eprintln!("{sent} readings, {again} there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_spool_stops_the_reading_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let kafka = Kafka::create().await;
    let topic = kafka.settings().topic(topics::READINGS.name);
    let admin: AdminClient<_> = kafka.settings().client().create().unwrap();
    for outcome in admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap() {
        outcome.unwrap();
    }
    let [dir, patience] = spool_settings(folder.path());
    let settings = [dir, patience, ("SPOOL_BYTES_MAX", "16777216"), ("PUBLISH_RATE_MAX", "1000000")];
    let stack = Stack::boot(kafka, &settings).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    // Each takes 16 KiB of the spool: a thousand fill it.
    let text = "x".repeat(14_000);
    let (mut count, mut acknowledged) = (0, 0);
    while stack.chassis.readiness.closed().is_empty() {
        count += 1;
        let payload = format!(r#"{{"seq":{count},"text":"{text}"}}"#);
        client.send(&publish(4, 1, count, &device.mqtt_topic(), payload.as_bytes())).await;
        wait::until("it is acknowledged, or the spool is full", async || {
            let is_full = !stack.chassis.readiness.closed().is_empty();
            (is_full || stack.metric("gateway_acknowledgements_total") >= f64::from(count)).then_some(())
        })
        .await;
    }
    assert_eq!(stack.chassis.readiness.closed(), ["spool"]);
    assert!(f64::from(count) > stack.metric("gateway_acknowledgements_total"), "one waits, unacknowledged");
    stack.release_readings().await;
    while acknowledged < count {
        acknowledged += 1;
        assert_eq!(client.frame().await.unwrap(), puback(acknowledged));
    }
    ready(&stack).await;
    let expected = HashMap::from([(device.sensor_id.clone(), u32::from(count))]);
    find_all(&stack.kafka.read(topics::READINGS), &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_is_spooled_too() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &spool_settings(folder.path())).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    broker.freeze();
    client.send(&publish(4, 1, 1, &device.mqtt_topic(), b"\xff not JSON")).await;
    assert_eq!(client.frame().await.unwrap(), puback(1));
    broker.thaw();
    let letter = stack.kafka.read(topics::PRODUCER_DLQ).next().await;
    assert_eq!(
        (letter.key.as_slice(), letter.value.as_deref()),
        (b"a-1".as_slice(), Some(b"\xff not JSON".as_slice()))
    );
    assert_eq!((letter.header("reason"), letter.header("codec")), (Some("not-json"), Some("json")));
}

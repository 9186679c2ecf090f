//! Kafka stalls, for real: the readings are acknowledged all the same, and Kafka gets them in the end.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iotctl::servers::kafka;
use iotctl::state::{State, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::admin::{AdminClient, AdminOptions};
use schema::topics;
use tempfile::TempDir;
use testkit::kafka::{Kafka, Reader};
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::raw::{Client, puback, publish};
use crate::stack::{Registered, Stack, next_reading};

/// A broker of one test's own, which can be frozen.
struct Broker {
    server: kafka::Kafka,
    pid: Pid,
    _folder: TempDir,
}

impl Broker {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let jars = State::open(None).unwrap().kafka_jars();
        kafka::resolve_jars(&jars).await.unwrap();
        let settings = kafka::Settings {
            folder: folder.path().join("kafka"),
            jars,
            log: folder.path().join("kafka.log"),
            port: free_port().unwrap(),
            controller_port: free_port().unwrap(),
            short_lived: true,
        };
        let server = kafka::Kafka::start(&settings).await.unwrap();
        let pid = iotctl::process::recorded(&settings.folder.join("kafka.pid")).unwrap();
        Self { server, pid, _folder: folder }
    }

    async fn topics(&self) -> Kafka {
        Kafka::at(self.server.bootstrap()).await
    }

    fn freeze(&self) {
        kill(self.pid, Signal::SIGSTOP).unwrap();
    }

    fn thaw(&self) {
        kill(self.pid, Signal::SIGCONT).unwrap();
    }
}

fn spool_settings(folder: &Path) -> [(&'static str, &str); 2] {
    [("SPOOL_DIR", folder.to_str().unwrap()), ("SPOOL_PATIENCE_MS", "300")]
}

async fn ready(stack: &Stack) {
    wait::until("the gateway is ready", async || stack.chassis.readiness.closed().is_empty().then_some(()))
        .await;
}

/// Publishes `{"seq":n}` in bursts, each acknowledged before the next, until it is told to end.
struct Sender {
    acknowledged: Arc<AtomicU32>,
    end: CancellationToken,
    running: JoinHandle<()>,
}

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

/// Reads until every sensor has its readings 1 to n; returns how many came again. Their order is that of publishing, and what comes
/// again has the same event id.
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

/// The gateway as a process, on the certificates and topics of a stack.
fn spawn(stack: &Stack, folder: &Path, port: u16, admin_port: u16) -> Child {
    let file = |name: &str| stack.pki.path(name);
    Command::new(env!("CARGO_BIN_EXE_gateway"))
        .envs(spool_settings(folder))
        .env("ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
        .env("MQTT_LISTEN", format!("127.0.0.1:{port}"))
        .env("KAFKA_BOOTSTRAP_SERVERS", &stack.kafka.bootstrap)
        .env("KAFKA_TOPIC_PREFIX", &stack.kafka.prefix)
        .env("TLS_CERT_FILE", file("server.pem"))
        .env("TLS_KEY_FILE", file("server.key"))
        .env("TLS_CLIENT_CA_FILE", file("device-ca.pem"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

async fn is_ready(admin_port: u16) -> Option<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", admin_port)).await.ok()?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(())
}

async fn enter(stack: &Stack, port: u16, device: &Registered) -> Client {
    let mut client = Client::dial(port, &stack.pki.root_pem(), Some(&device.certificate)).await.unwrap();
    client.enter(4, "c").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_stopped_gateway_forwards_what_it_acknowledged_when_it_runs_again() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &[]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let (port, admin_port) = (free_port().unwrap(), free_port().unwrap());
    let mut sent = 0;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut process = spawn(&stack, folder.path(), port, admin_port);
        wait::until("the process is ready", async || is_ready(admin_port).await).await;
        let mut client = enter(&stack, port, &device).await;
        burst(&mut client, &device.mqtt_topic(), sent).await;
        broker.freeze();
        for index in 1..=10 {
            burst(&mut client, &device.mqtt_topic(), sent + index * u32::from(BURST)).await;
        }
        sent += 11 * u32::from(BURST);
        kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), signal).unwrap();
        let status = wait::until("the process ends", async || process.try_wait().unwrap()).await;
        assert_eq!(status.code(), (signal == Signal::SIGTERM).then_some(0));
        broker.thaw();
    }
    let mut last = spawn(&stack, folder.path(), port, admin_port);
    let expected = HashMap::from([(device.sensor_id.clone(), sent)]);
    let again = find_all(&stack.kafka.read(topics::READINGS), &expected).await;
    eprintln!("{sent} readings, {again} there twice");
    last.kill().unwrap();
    last.wait().unwrap();
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
    let stack = Stack::boot(kafka, &[dir, patience, ("SPOOL_BYTES_MAX", "16777216")]).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    // Each takes 256 KiB of the spool: 64 fill it.
    let text = "x".repeat(200_000);
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

//! Whole sessions under fuzz: whatever comes over a socket, before, in the place of, or after a handshake and
//! a CONNECT, the gateway ends that connection, serves the others meanwhile, and its readings stay readings.

use crate::fuzz::packets::{self, TOKENS, frame_bytes};
use crate::fuzz::{Dice, Round, Rounds, Seed, mutate, seeds};
use crate::raw::{Client, exchange, puback, publish};
use crate::stack::{Registered, Stack, next_reading};
use futures::future::join_all;
use schema::topics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::wait;
use tokio::net::TcpStream;

/// Rounds unless the environment says otherwise: some seconds.
const ROUNDS: u64 = 1_000;
/// Connections at a time.
const ABREAST: u64 = 4;
/// Cuts of a stream on its way.
const CUTS_MAX: usize = 4;
/// A good request, before it is changed.
const REQUEST: &[u8] =
    b"POST /api/v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 14\r\n\r\n{\"n\":1,\"m\":2.5}";

/// Targets, and the inputs for each.
struct Target {
    stack: Stack,
    devices: Vec<Registered>,
    seeds: Vec<Seed>,
}

impl Target {
    async fn start() -> Self {
        // This is not about the cost of a device.
        let settings = [
            ("HTTP_LISTEN", "127.0.0.1:0"),
            ("PUBLISH_RATE_MAX", "1000000"),
            ("CONNECTION_RATE_PER_ADDRESS_MAX", "1000000"),
        ];
        let stack = Stack::with(&settings).await;
        let json = stack.register("json-1").await;
        let sparkplug = stack.register("sparkplug-1").await;
        stack.change(&sparkplug, |row| row.codec = "sparkplug-b".to_owned()).await;
        let folders = ["mqtt-connect", "mqtt-3.1.1", "mqtt-5", "json", "sparkplug-b"];
        let seeds = folders.into_iter().flat_map(seeds).collect();
        Self { stack, devices: vec![json, sparkplug], seeds }
    }

    /// One connection from its beginning to its end.
    async fn round(&self, number: u64) {
        let mut dice = Dice(number);
        let device = dice.pick(&self.devices);
        let is_v5 = dice.once_in(2);
        let lies = *dice.pick(&[0, 20, 60]);
        let kind = dice.below(8);
        let mut stream = match kind {
            0 => REQUEST.to_vec(),
            1 | 2 => packets::stream(&mut dice, is_v5, lies, &device.sensor_id),
            _ => packets::after_connect(&mut dice, is_v5, lies, &device.sensor_id),
        };
        if lies == 0 || dice.once_in(2) {
            mutate(&mut dice, &self.seeds, &TOKENS, &mut stream);
        }
        let chunks = dice.split(&stream, CUTS_MAX);
        let _round = Round("sessions", number, &stream);
        match kind {
            0 => drop(self.dial(self.stack.http_port.unwrap(), device).await.exchange(&chunks).await),
            1 => {
                let socket = TcpStream::connect(("127.0.0.1", self.stack.port)).await.unwrap();
                exchange(socket, &chunks).await;
            }
            2 => check_answers(&self.dial(self.stack.port, device).await.exchange(&chunks).await),
            _ => {
                let mut client = self.dial(self.stack.port, device).await;
                client.enter(if is_v5 { 5 } else { 4 }, &format!("c-{number}")).await;
                check_answers(&client.exchange(&chunks).await);
            }
        }
    }

    async fn dial(&self, port: u16, device: &Registered) -> Client {
        Client::dial(port, &self.stack.pki.root_pem(), Some(&device.certificate)).await.unwrap()
    }
}

/// The gateway speaks in whole packets that a server may send, whatever it hears.
fn check_answers(mut answers: &[u8]) {
    while !answers.is_empty() {
        let bytes = frame_bytes(answers).expect("a whole header");
        assert!(bytes <= answers.len(), "an answer is cut: {answers:02x?}");
        assert!(matches!(answers[0], 0x20 | 0x40 | 0x90 | 0xb0 | 0xd0 | 0xe0), "{answers:02x?}");
        answers = &answers[bytes..];
    }
}

/// Publishes one message after the other until it is told to stop; how many were acknowledged.
async fn stand_by(mut client: Client, mqtt_topic: String, is_over: Arc<AtomicBool>) -> u32 {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let packet_id = u16::try_from(count % 0xffff + 1).unwrap();
        let payload = format!(r#"{{"count":{count}}}"#);
        client.send(&publish(5, 1, packet_id, &mqtt_topic, payload.as_bytes())).await;
        assert_eq!(client.frame().await.unwrap(), puback(packet_id), "others are served meanwhile");
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fuzzed_session_hangs_or_harms_another() {
    let target = Target::start().await;
    let stack = &target.stack;
    let bystander = stack.register("bystander-1").await;
    let mut client = stack.dial(&bystander).await;
    client.enter(5, "c").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let standing_by = tokio::spawn(stand_by(client, bystander.mqtt_topic(), is_over.clone()));

    let mut rounds = Rounds::of("sessions", ROUNDS);
    loop {
        let numbers: Vec<_> = (0..ABREAST).map_while(|_| rounds.next()).collect();
        if numbers.is_empty() {
            break;
        }
        join_all(numbers.into_iter().map(|number| target.round(number))).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let count = standing_by.await.unwrap();
    assert!(count > 0);
    // A connection whose task had panicked would be counted for ever.
    wait::until("every connection has ended", async || {
        (stack.metric("gateway_connections") == 0.0).then_some(())
    })
    .await;
    assert!(!stack.running.is_finished());
    let readings = stack.kafka.read(topics::READINGS);
    let mut next = 0;
    while next < count {
        let reading = next_reading(&readings).await;
        if reading.sensor_id == "bystander-1" {
            assert_eq!(reading.values["count"], f64::from(next));
            next += 1;
        }
    }
}

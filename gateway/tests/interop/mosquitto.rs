//! mosquitto_pub and mosquitto_sub, what is at hand in a shell. With `-d` they print each packet.

use super::{MESSAGES, assert_numbered, assert_one_dead_letter};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use schema::topics;
use std::process::Stdio;
use testkit::wait::PATIENCE;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

struct Mosquitto {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Mosquitto {
    /// Starts one of the two programs as the device.
    fn start(
        program: &str,
        stack: &Stack,
        device: &Registered,
        version: &str,
        client_id: &str,
        args: &[&str],
    ) -> Self {
        let port = stack.port.to_string();
        // Line by line, also into a pipe.
        let mut child = Command::new("stdbuf")
            .args(["-oL", program])
            .args(["-d", "-h", "localhost", "-p", &port, "-V", version, "-i", client_id, "-q", "1"])
            .arg("--cafile")
            .arg(stack.pki.path("ca.pem"))
            .arg("--cert")
            .arg(stack.pki.path(&format!("{}.pem", device.sensor_id)))
            .arg("--key")
            .arg(stack.pki.path(&format!("{}.key", device.sensor_id)))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program}: {error}\nmosquitto-clients is needed: run `make deps`")
            });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line that contains this.
    async fn line(&mut self, wanted: &str) -> String {
        let search = async {
            loop {
                let line = self.lines.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("it ended without: {wanted}"));
                if line.contains(wanted) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("waited in vain for: {wanted}"))
    }

    /// Waits for its end: success, all that it still printed, and what it complained about.
    async fn end(self) -> (bool, String, String) {
        let Self { mut child, mut lines } = self;
        drop(child.stdin.take());
        let mut printed = String::new();
        while let Some(line) = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap() {
            printed += &line;
            printed.push('\n');
        }
        let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        (output.status.success(), printed, String::from_utf8(output.stderr).unwrap())
    }
}

/// Publishes one line for each message, and returns the message ids of the PUBACK packets as they came.
async fn publish_lines(stack: &Stack, device: &Registered, version: &str) -> Vec<usize> {
    let topic = device.mqtt_topic();
    let args = ["-t", &topic, "-l"];
    let mut publisher = Mosquitto::start("mosquitto_pub", stack, device, version, "lines", &args);
    let lines: String = (0..MESSAGES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    publisher.child.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let (is_well, printed, complaint) = publisher.end().await;
    assert!(is_well, "{complaint}");
    let acknowledged = printed.lines().filter_map(|line| line.split_once("received PUBACK (Mid: "));
    acknowledged.map(|(_, rest)| rest.split([',', ')']).next().unwrap().parse().unwrap()).collect()
}

/// Publishes one message and waits for the end: success, and all that was printed.
async fn publish(stack: &Stack, device: &Registered, version: &str, args: &[&str]) -> (bool, String) {
    let publisher = Mosquitto::start("mosquitto_pub", stack, device, version, "one", args);
    let (is_well, printed, complaint) = publisher.end().await;
    (is_well, printed + &complaint)
}

/// Subscribes to its own branch, and waits for a ping to be answered and for its successor.
async fn subscribe_and_be_taken_over(stack: &Stack, device: &Registered, version: &str, refused: &str) {
    let own = format!("devices/{}/#", device.sensor_id);
    let args = ["-k", "5", "-t", &own, "-t", "devices/another-1/#"];
    let mut subscriber = Mosquitto::start("mosquitto_sub", stack, device, version, "same", &args);
    let granted = subscriber.line("Subscribed").await;
    assert!(granted.ends_with(&format!(": 0, {refused}")), "{granted}");
    subscriber.line("received PINGRESP").await;
    let mut successor = Mosquitto::start("mosquitto_sub", stack, device, version, "same", &args);
    successor.line("Subscribed").await;
    if version == "mqttv5" {
        subscriber.line("DISCONNECT (142)").await;
    } else {
        // It comes back by itself, and takes over in its turn.
        subscriber.line("sending CONNECT").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_in_3_1_1_is_a_device() {
    let stack = Stack::start().await;
    let device = stack.register("thermostat-1").await;
    let acknowledged = publish_lines(&stack, &device, "mqttv311").await;
    assert_eq!(acknowledged, (1..=MESSAGES).collect::<Vec<_>>(), "in PUBLISH order");
    let own = device.mqtt_topic();
    let one = async |args: &[&str]| publish(&stack, &device, "mqttv311", args).await;
    assert!(one(&["-t", &own, "-q", "0", "-m", r#"{"at_most_once":1}"#]).await.0);
    assert!(one(&["-t", &own, "-r", "-m", r#"{"retained":1}"#]).await.0, "the flag is ignored");
    assert!(one(&["-t", &own, "-m", "this is not JSON"]).await.0);
    for args in [["-t", "devices/another-1/readings", "-q", "1"], ["-t", &own, "-q", "2"]] {
        let (is_well, printed) = one(&[&args[..], &["-m", r#"{"refused":1}"#]].concat()).await;
        assert!(!is_well && !printed.contains("PUBREC") && !printed.contains("PUBACK"), "{printed}");
    }
    subscribe_and_be_taken_over(&stack, &device, "mqttv311", "128").await;
    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    for metric in ["at_most_once", "retained"] {
        assert_eq!(next_reading(&readings).await.values[metric], 1.0);
    }
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
    assert_one_dead_letter(&stack, "this is not JSON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_in_5_is_a_device() {
    let stack = Stack::start().await;
    let device = stack.register("thermostat-1").await;
    let acknowledged = publish_lines(&stack, &device, "mqttv5").await;
    assert_eq!(acknowledged, (1..=MESSAGES).collect::<Vec<_>>(), "in PUBLISH order");
    let own = device.mqtt_topic();
    let one = async |args: &[&str]| publish(&stack, &device, "mqttv5", args).await;
    assert!(one(&["-t", &own, "-q", "0", "-m", r#"{"at_most_once":1}"#]).await.0);
    let named = ["-D", "publish", "user-property", "event-id", "e-1", "-m", r#"{"named":1}"#];
    assert!(one(&[&["-t", &own][..], &named].concat()).await.0);
    assert!(one(&["-t", &own, "-m", "this is not JSON"]).await.0);
    for (args, word) in [
        (["-t", "devices/another-1/readings", "-q", "1"], "Not authorized"),
        (["-t", &own, "-q", "2"], "QoS"),
    ] {
        let (_, printed) = one(&[&args[..], &["-m", r#"{"refused":1}"#]].concat()).await;
        assert!(printed.contains(word) && !printed.contains("PUBREC"), "{printed}");
    }
    let (is_well, printed) = one(&["-t", &own, "-r", "-m", r#"{"unretained":1}"#]).await;
    assert!(is_well && printed.contains(", r0,"), "the offer is understood, the flag left out: {printed}");
    subscribe_and_be_taken_over(&stack, &device, "mqttv5", "135").await;
    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    assert_eq!(next_reading(&readings).await.values["at_most_once"], 1.0);
    let event_id = next_reading(&readings).await.event_id;
    assert_eq!(event_id, schema::event_id_from_publisher("thermostat-1", "e-1"));
    assert_eq!(next_reading(&readings).await.values["unretained"], 1.0);
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
    assert_one_dead_letter(&stack, "this is not JSON").await;
}

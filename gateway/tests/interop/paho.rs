//! paho-mqtt, the client that most firmware prototypes start with. `tests/paho/device.py` does it and says
//! what it was told.

use super::{MESSAGES, assert_numbered, assert_one_dead_letter};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use schema::topics;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const REQUIREMENTS: &str = include_str!("../paho/requirements.txt");

/// Returns a Python that has paho-mqtt and nothing else, made beside the build when it is first asked for.
///
/// # Panics
/// There is no Python to make it with, or the package index is out of reach: the tests do not pass without.
fn python() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paho");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (python, made_of) = (folder.join("venv/bin/python"), folder.join("requirements.txt"));
    // Written last, so a half-made environment is made again.
    if std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == REQUIREMENTS) {
        return python;
    }
    let run = |what: &mut Command, advice: &str| {
        let outcome = what.stdin(Stdio::null()).output();
        let complaint = match &outcome {
            Ok(outcome) if outcome.status.success() => return,
            Ok(outcome) => String::from_utf8_lossy(&outcome.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!("{what:?}: {complaint}\n{advice}");
    };
    let advice = "python3 with its module venv is needed: run `make deps`";
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")), advice);
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/paho/requirements.txt");
    run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--require-hashes", "-r"])
            .arg(requirements),
        "paho-mqtt is installed once from the package index that pip is set up with: is the network there?",
    );
    std::fs::write(made_of, REQUIREMENTS).unwrap();
    python
}

/// Has paho-mqtt play the device, and returns what it was told.
async fn play(stack: &Stack, device: &Registered, version: &str) -> Value {
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let output = tokio::process::Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/paho/device.py"))
        .args([version, &stack.port.to_string()])
        .arg(stack.pki.path(""))
        .arg(&device.sensor_id)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is the same in both versions: the window, its acknowledgements, the malformed message, and what Kafka
/// has of all.
async fn assert_published(stack: &Stack, told: &Value) {
    assert_eq!(told["sent"].as_array().unwrap().len(), MESSAGES);
    assert_eq!(told["acknowledged"], told["sent"], "in PUBLISH order");
    assert_eq!(told["malformed"], json!(["published", 0, null]));
    assert_eq!(told["successor"], json!(["published", 0, null]));
    assert_one_dead_letter(stack, "this is not JSON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_in_3_1_1_is_a_device() {
    let stack = Stack::start().await;
    let device = stack.register("pump-1").await;
    let told = play(&stack, &device, "4").await;
    assert_published(&stack, &told).await;
    assert_eq!(told["connack"], json!([0, {}]));
    assert_eq!(told["own"], json!([[0], null]));
    assert_eq!(told["foreign"], json!([[0x80], null]));
    for ended in ["foreign topic", "qos 2"] {
        assert_eq!(
            told[ended],
            json!(["disconnected", null, null]),
            "{ended}: 3.1.1 has no words, the connection ends"
        );
    }
    assert_eq!(told["retained"], json!(["published", 0, null]), "the flag is ignored");
    assert_eq!(told["taken over"], json!([null, null]));
    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    for metric in ["at_most_once", "retained", "successor"] {
        assert_eq!(next_reading(&readings).await.values[metric], 1.0);
    }
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_in_5_is_a_device_and_is_told_why_it_is_refused() {
    let stack = Stack::with(&[("IN_FLIGHT_MAX", "33")]).await;
    let device = stack.register("pump-1").await;
    let told = play(&stack, &device, "5").await;
    assert_published(&stack, &told).await;
    let offer = json!({
        "ReceiveMaximum": 33, "MaximumQoS": 1, "RetainAvailable": 0, "MaximumPacketSize": 262_144,
        "TopicAliasMaximum": 0, "WildcardSubscriptionAvailable": 1, "SubscriptionIdentifierAvailable": 0,
        "SharedSubscriptionAvailable": 0,
    });
    assert_eq!(told["connack"], json!([0, offer]));
    assert_eq!(told["own"], json!([[0], null]));
    assert_eq!(told["foreign"], json!([[0x87], "subscribe below devices/<your sensor id>/ only"]));
    assert_eq!(told["named"], json!(["published", 0, null]));
    let topic = "publish to devices/<your sensor id>/readings or below it only; the sensor id is your certificate's CN";
    assert_eq!(told["foreign topic"], json!(["published", 0x87, topic]));
    let qos = "QoS 2 is not offered: publish at QoS 1, with a timestamp so that a resend is recognised";
    assert_eq!(told["qos 2"], json!(["disconnected", 0x9b, qos]));
    let retain = "messages are not retained: publish without the retain flag";
    assert_eq!(told["retained"], json!(["disconnected", 0x9a, retain]));
    let again = "another connection came with this certificate and client id";
    assert_eq!(told["taken over"], json!([0x8e, again]));
    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    assert_eq!(next_reading(&readings).await.values["at_most_once"], 1.0);
    let named = next_reading(&readings).await;
    assert_eq!(named.event_id, schema::event_id_from_publisher("pump-1", "e-1"));
    assert_eq!(next_reading(&readings).await.values["successor"], 1.0);
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
}

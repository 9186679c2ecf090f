//! curl, what is at hand where there is no MQTT. It asks with `Expect: 100-continue` before it sends a large
//! body.

use super::next_readings;
use crate::stack::{QUIET, Registered, Stack};
use schema::topics;
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

/// Posts a body, with the device's certificate or without any; the status and the body of the answer.
async fn post(stack: &Stack, device: Option<&Registered>, body: &str) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"])
        .args(["--json", "@-", "--cacert"])
        .arg(stack.pki.path("ca.pem"))
        .arg(format!("https://localhost:{}/api/v1/readings", stack.http_port.unwrap()));
    if let Some(device) = device {
        let file = |ending: &str| stack.pki.path(&format!("{}.{ending}", device.sensor_id));
        curl.arg("--cert").arg(file("pem")).arg("--key").arg(file("key"));
    }
    let mut curl = curl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("curl: {error}\ncurl is needed: run `make deps`"));
    let mut stdin = curl.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, body.as_bytes()).await.unwrap();
    drop(stdin);
    let output = curl.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (answer, status) = printed.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_a_device() {
    let stack = Stack::with(&[("HTTP_LISTEN", "127.0.0.1:0")]).await;
    let device = stack.register("meter-1").await;
    let (status, answer) = post(&stack, Some(&device), r#"{"n":0}"#).await;
    assert_eq!((status, &answer["readings"]), (202, &Value::from(1)));
    let text = "x".repeat(10_000);
    let array: Vec<_> = (1..40).map(|n| format!(r#"{{"n":{n},"text":"{text}"}}"#)).collect();
    let (status, answer) = post(&stack, Some(&device), &format!("[{}]", array.join(","))).await;
    assert_eq!((status, &answer["readings"]), (202, &Value::from(39)), "{answer}");
    let (status, answer) = post(&stack, Some(&device), r#"[{"n":1},{"1":2,"timestamp":"noon"}]"#).await;
    assert_eq!((status, answer["errors"].as_array().unwrap().len()), (400, 2), "{answer}");
    assert_eq!(post(&stack, None, r#"{"n":1}"#).await.0, 401);
    let readings = stack.kafka.read(topics::READINGS);
    let numbers: Vec<_> = next_readings(&readings, 40).await.iter().map(|event| event.values["n"]).collect();
    assert_eq!(numbers, (0_u8..40).map(f64::from).collect::<Vec<_>>());
    assert!(readings.next_within(QUIET).await.is_none());
}

//! Readings over HTTPS.

use crate::raw::{Client, puback, publish};
use crate::stack::{QUIET, Stack, next_reading};
use iotctl::pki::DeviceCertificate;
use iotctl::token::{AUDIENCE, ISSUER, Signer};
use schema::{DeviceStatus, topics};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;
use testkit::wait;

/// What the gateway answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Asserts a problem of that status, complete and in its media type.
    pub(crate) fn problem(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{}", self.body);
        self
    }

    pub(crate) fn accepted(self, readings: usize) -> Self {
        assert_eq!(self.status, 202, "{}", self.body);
        assert_eq!(self.body["readings"], readings);
        self
    }
}

impl Stack {
    pub(crate) async fn with_http(settings: &[(&str, &str)]) -> Self {
        Self::with(&[&[("HTTP_LISTEN", "127.0.0.1:0")], settings].concat()).await
    }

    pub(crate) async fn dial_http(&self, device: Option<&DeviceCertificate>) -> std::io::Result<Client> {
        Client::dial(self.http_port.unwrap(), &self.pki.root_pem(), device).await
    }

    pub(crate) async fn post(&self, device: &DeviceCertificate, body: &str) -> Answer {
        ask(&mut self.dial_http(Some(device)).await.unwrap(), "", body).await
    }

    async fn post_with_token(&self, token: &str, body: &str) -> Answer {
        let header = format!("authorization: Bearer {token}\r\n");
        ask(&mut self.dial_http(None).await.unwrap(), &header, body).await
    }
}

/// Posts a body; each of `headers` ends with its line end.
async fn ask(client: &mut Client, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "POST /api/v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    send(client, &request).await
}

pub(crate) async fn send(client: &mut Client, request: &str) -> Answer {
    let (status, head, body) = client.ask(request.as_bytes()).await;
    Answer { status, head, body: serde_json::from_str(&body).unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_over_http_is_durable_before_the_answer_and_the_same_event_as_over_mqtt() {
    let stack = Stack::with_http(&[]).await;
    let device = stack.register("a-1").await;
    let now = schema::Timestamp::now();
    let payload = format!(r#"{{"t":21.5,"unit":"C","timestamp":"{now}"}}"#);
    let answer = stack.post(&device.certificate, &payload).await.accepted(1);
    assert_eq!(answer.body["requestId"].as_str().unwrap().len(), 36);
    let readings = stack.kafka.read(topics::READINGS);
    let over_http = next_reading(&readings).await;
    assert_eq!((over_http.sensor_id.as_str(), over_http.values["t"]), ("a-1", 21.5));
    assert_eq!((over_http.zone_id.as_str(), &over_http.attributes["unit"]), ("zone-1", &Value::from("C")));
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    client.send(&publish(4, 1, 1, &device.mqtt_topic(), payload.as_bytes())).await;
    assert_eq!(client.frame().await.unwrap(), puback(1));
    assert_eq!(next_reading(&readings).await.event_id, over_http.event_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn array_is_stored_whole_and_in_order_or_not_at_all() {
    let stack = Stack::with_http(&[]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let bad = r#"[{"t":1},{"9":1,"timestamp":"noon"},{"text":"only"}]"#;
    let problem = ask(&mut client, "", bad).await.problem(400);
    let errors = problem.body["errors"].as_array().unwrap();
    let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["[1].9", "[1].timestamp", "[2]"]);
    let good: Vec<_> = (0..100).map(|value| format!(r#"{{"t":{value}}}"#)).collect();
    ask(&mut client, "", &format!("[{}]", good.join(","))).await.accepted(100);
    let readings = stack.kafka.read(topics::READINGS);
    for value in 0..100 {
        assert_eq!(next_reading(&readings).await.values["t"], f64::from(value));
    }
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of the bad array");
    assert!(stack.kafka.read(topics::PRODUCER_DLQ).next_within(QUIET).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_a_device_stands_in_for_its_certificate() {
    let folder = TempDir::new().unwrap();
    let signer = Signer::open_or_create(folder.path()).unwrap();
    let jwks = signer.jwks_file();
    let settings =
        [("JWT_JWKS_FILE", jwks.to_str().unwrap()), ("JWT_ISSUER", ISSUER), ("JWT_AUDIENCE", AUDIENCE)];
    let stack = Stack::with_http(&settings).await;
    stack.register("a-1").await;
    stack.register_as("suspended-1", DeviceStatus::Suspended).await;
    let token = |name: &str, role: &str| signer.mint(name, &[role], Duration::from_secs(600)).unwrap();
    let body = r#"{"t":1}"#;
    stack.post_with_token(&token("a-1", "device"), body).await.accepted(1);
    assert_eq!(next_reading(&stack.kafka.read(topics::READINGS)).await.sensor_id, "a-1");
    for (name, role) in
        [("a-1", "analyst"), ("suspended-1", "device"), ("nobody-1", "device"), ("ada", "admin")]
    {
        stack.post_with_token(&token(name, role), body).await.problem(403);
    }
    let refused = stack.post_with_token("a.b.c", body).await.problem(401);
    assert_eq!(
        refused.header("www-authenticate"),
        Some("bearer realm=\"fieldline\", error=\"invalid_token\"")
    );
    ask(&mut stack.dial_http(None).await.unwrap(), "", body).await.problem(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_checked_as_for_mqtt_and_anew_for_every_request() {
    let stack = Stack::with_http(&[]).await;
    let device = stack.register("a-1").await;
    let body = r#"{"t":1}"#;
    let unregistered = stack.pki.device("unregistered-1");
    stack.post(&unregistered, body).await.problem(403);
    let foreign = testkit::pki::TestPki::create().device("a-1");
    let dialled = stack.dial_http(Some(&foreign)).await;
    // In TLS 1.3 a client hears of its refused certificate only after its own handshake.
    if let Ok(mut client) = dialled {
        assert_eq!(client.try_connect().await, None);
    }
    ask(&mut stack.dial_http(None).await.unwrap(), "", body).await.problem(401);
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    ask(&mut client, "", body).await.accepted(1);
    stack.change(&device, |row| row.status = DeviceStatus::Suspended).await;
    wait::until("the next request on the same connection is refused", async || {
        (ask(&mut client, "", body).await.status == 403).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_are_told_so() {
    let stack = Stack::with_http(&[("HTTP_BODY_BYTES_MAX", "2048")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let get = send(&mut client, "GET /api/v1/readings HTTP/1.1\r\nhost: x\r\n\r\n").await.problem(405);
    assert_eq!(get.header("allow"), Some("post"));
    send(&mut client, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.problem(404);
    ask(&mut client, "content-type: text/csv\r\n", "").await.problem(415);
    for body in ["", "7", "[", "[]"] {
        ask(&mut client, "", body).await.problem(400);
    }
    let large = format!(r#"{{"t":1,"text":"{}"}}"#, "x".repeat(3_000));
    stack.post(&device.certificate, &large).await.problem(413);
    // Without a length, the limit shows only while it is read.
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let chunked = "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = "x".repeat(0xc00);
    send(&mut client, &format!("{chunked}c00\r\n{chunk}\r\n0\r\n\r\n")).await.problem(413);
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let good = r#"{"t":1}"#;
    send(&mut client, &format!("{chunked}7\r\n{good}\r\n0\r\n\r\n")).await.accepted(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_that_posts_too_fast_is_told_when_to_come_back() {
    // Three readings, and the connection that they come over.
    let stack = Stack::with_http(&[("PUBLISH_RATE_MAX", "1"), ("PUBLISH_BURST_MAX", "13")]).await;
    let (device, other) = (stack.register("a-1").await, stack.register("b-1").await);
    let three = r#"[{"t":1},{"t":2},{"t":3}]"#;
    stack.post(&device.certificate, three).await.accepted(3);
    let refused = stack.post(&device.certificate, three).await.problem(429);
    let wait_s: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=13).contains(&wait_s), "{wait_s}");
    stack.post(&other.certificate, three).await.accepted(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_now_is_refused_with_a_time_to_come_back() {
    let stack = Stack::stalled(&[("HTTP_LISTEN", "127.0.0.1:0")]).await;
    let device = stack.register("a-1").await;
    let refused = stack.post(&device.certificate, r#"{"t":1}"#).await.problem(503);
    assert_eq!(refused.header("retry-after"), Some("5"));
    let stack = Stack::with_http(&[]).await;
    let device = stack.register("a-1").await;
    stack.refuse_readings().await;
    let refused = stack.post(&device.certificate, r#"[{"t":1},{"t":2}]"#).await.problem(503);
    assert_eq!(refused.header("retry-after"), Some("5"), "Kafka refuses, so nothing is promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_and_never_sent_takes_no_room() {
    let stack = Stack::with_http(&[("IN_FLIGHT_TOTAL_BYTES_MAX", "4300000")]).await;
    let (slow, device) = (stack.register("slow-1").await, stack.register("a-1").await);
    let head = "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let mut holders = Vec::new();
    // Each announces a megabyte, sends a byte of it and no more: thirty megabytes in a budget of four.
    for _ in 0..30 {
        let mut client = stack.dial_http(Some(&slow.certificate)).await.unwrap();
        client.send(format!("{head}[").as_bytes()).await;
        holders.push(client);
    }
    let body = format!(r#"{{"t":1{}}}"#, " ".repeat(400_000));
    stack.post(&device.certificate, &body).await.accepted(1);
    let refused = stack.dial_http(Some(&slow.certificate)).await;
    let third = stack.dial_http(Some(&slow.certificate)).await;
    let mut fourth = stack.dial_http(Some(&slow.certificate)).await.unwrap();
    assert!(refused.is_ok() && third.is_ok(), "32 connections are its own");
    assert_eq!(fourth.try_connect().await, None, "and no more");
    assert_eq!(stack.metric_of("gateway_refusals_total", "connections-per-device-max"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_has_its_share_of_what_may_be_in_flight_and_no_more() {
    let settings = [
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("HTTP_BODY_BYTES_MAX", "100000"),
        ("IN_FLIGHT_DEVICE_BYTES_MAX", "2400000"),
        ("IN_FLIGHT_TOTAL_BYTES_MAX", "4800000"),
        ("CONNECTIONS_PER_DEVICE_MAX", "100"),
        ("PUBLISH_RATE_MAX", "1000000"),
    ];
    let stack = Stack::with(&settings).await;
    let (slow, device) = (stack.register("slow-1").await, stack.register("a-1").await);
    let head = "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
    let most = format!("{head}[{}", " ".repeat(90_000));
    let mut holders = Vec::new();
    for _ in 0..24 {
        let mut client = stack.dial_http(Some(&slow.certificate)).await.unwrap();
        client.send(most.as_bytes()).await;
        holders.push(client);
    }
    let body = format!(r#"{{"t":1{}}}"#, " ".repeat(90_000));
    wait::until("the device's share is taken", async || {
        let answer = stack.post(&slow.certificate, &body).await;
        (answer.status == 429).then(|| assert_eq!(answer.header("retry-after"), Some("1")))
    })
    .await;
    stack.post(&device.certificate, &body).await.accepted(1);
    assert!(stack.metric_of("gateway_read_pauses_total", "device-budget") > 0.0);
    assert_eq!(stack.metric_of("gateway_read_pauses_total", "budget"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_a_body_that_is_too_large_arrives() {
    // Bytes that are read and not kept are charged, too.
    let rates = [("PUBLISH_RATE_MAX", "1000000"), ("PUBLISH_BURST_MAX", "50000")];
    let stack = Stack::with_http(&rates).await;
    let device = stack.register("a-1").await;
    let head = |bytes: usize, more: &str| {
        format!("POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n{more}\r\n")
    };
    for bytes in [1_060_000, 1_100_000, 2_000_000, 8_000_000] {
        // Written to its end before anything is read, as simple clients do.
        let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
        let request = head(bytes, "") + &" ".repeat(bytes);
        send(&mut client, &request).await.problem(413);
        ask(&mut client, "", r#"{"t":1}"#).await.accepted(1);
    }
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let expect = "expect: 100-continue\r\n";
    send(&mut client, &head(2_000_000, expect)).await.problem(413);
    let mut client = stack.dial_http(Some(&device.certificate)).await.unwrap();
    let (status, _) = client.ask_head(head(7, expect).as_bytes()).await;
    assert_eq!(status, 100, "what may come is asked for");
    send(&mut client, r#"{"t":1}"#).await.accepted(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_gets_one_answer_and_none_of_the_places_of_mqtt() {
    let stack = Stack::with_http(&[("HTTP_CONNECTIONS_MAX", "2")]).await;
    let device = stack.register("a-1").await;
    for request in ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "BREW /api/v1/readings HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let mut stranger = stack.dial_http(None).await.unwrap();
        let answer = send(&mut stranger, request).await;
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        assert_eq!(stranger.frame().await, None);
    }
    let mut stranger = stack.dial_http(None).await.unwrap();
    let refused = ask(&mut stranger, "", r#"{"t":1}"#).await.problem(401);
    assert_eq!(refused.header("connection"), Some("close"));
    let unregistered = stack.pki.device("nobody-1");
    let mut stranger = stack.dial_http(Some(&unregistered)).await.unwrap();
    assert_eq!(ask(&mut stranger, "", r#"{"t":1}"#).await.problem(403).header("connection"), Some("close"));
    wait::until("the strangers have left", async || {
        (stack.metric("gateway_connections") == 0.0).then_some(())
    })
    .await;
    let _places = (stack.dial_http(None).await.unwrap(), stack.dial_http(None).await.unwrap());
    assert!(stack.dial_http(Some(&device.certificate)).await.is_err());
    assert_eq!(stack.metric_of("gateway_refusals_total", "connections-max"), 1.0);
    stack.dial(&device).await.enter(4, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_nobody_can_store_are_refused_by_name() {
    let stack = Stack::with_http(&[]).await;
    let device = stack.register("a-1").await;
    let body = r#"[{"good":1},{"good":1,"poison":1e300},{"t":1,"text":{"deep":["\u0000"]}}]"#;
    let problem = stack.post(&device.certificate, body).await.problem(400);
    let errors = problem.body["errors"].as_array().unwrap();
    let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["[1].poison", "[2].text"]);
    let large = format!(r#"{{"t":1,"text":"{}"}}"#, "x".repeat(20_000));
    let problem = stack.post(&device.certificate, &large).await.problem(400);
    assert!(problem.body.to_string().contains("16384"), "{}", problem.body);
    let readings = stack.kafka.read(topics::READINGS);
    stack.post(&device.certificate, r#"{"last":1}"#).await.accepted(1);
    assert_eq!(next_reading(&readings).await.values.len(), 1);
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    let letters = stack.kafka.read(topics::PRODUCER_DLQ);
    for (packet_id, (payload, reason, name)) in (1..).zip([
        (r#"{"good":1,"poison":1e300}"#, "value-out-of-range", "poison"),
        (r#"{"good":1,"poison":1e999}"#, "not-finite", "poison"),
        (r#"{"good":1,"poison":"a\u0000b"}"#, "nul", "poison"),
        (large.as_str(), "attributes-too-large", "attributes"),
        (r#"{"good":1,"poison pill":1}"#, "metric-name", "poison pill"),
    ]) {
        client.send(&publish(5, 1, packet_id, &device.mqtt_topic(), payload.as_bytes())).await;
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
        let letter = letters.next().await;
        assert_eq!(letter.header("reason"), Some(reason));
        assert!(letter.header("detail").unwrap().contains(name), "{:?}", letter.header("detail"));
    }
}

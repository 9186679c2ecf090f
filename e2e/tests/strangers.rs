//! What strangers send to ports that speak plain HTTP leaves nothing behind: no series and no memory.

use e2e::{Service, System};
use futures::future::join_all;
use std::time::Duration;
use testkit::wait::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Odd requests to each port when nothing else is asked for; `STRANGERS=100000` is the long form.
const REQUESTS: u32 = 1_000;
/// Requests before the first look, so that every kind of answer has its series and every pool its memory.
const REQUESTS_BEFORE: u32 = 500;
/// Strangers at a time.
const AT_ONCE: u32 = 20;
/// What memory may grow by, in KiB: less than 100 bytes for each of 100,000 requests, and more than
/// allocators waver.
const GROWTH_KIB_MAX: u64 = 8 * 1_024;
/// What `/metrics` may grow by, in lines: a series of the service's own work that begins meanwhile, with its
/// help.
const GROWTH_LINES_MAX: usize = 20;
/// How long a connection that was left half said is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Writes the nth odd request: each is new in whatever it can choose.
fn odd_request(n: u32) -> Vec<u8> {
    let text = match n % 12 {
        0 => format!("M{n} /api/v1/devices HTTP/1.1\r\nHost: x\r\n\r\n"),
        1 => format!("GET /nowhere/{n}?{n}={n} HTTP/1.1\r\nHost: h{n}\r\n\r\n"),
        2 => format!("GET /api/v1/devices/d{n} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {n}.b.c\r\n\r\n"),
        3 => format!("POST /api/v1/thresholds HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n{{"),
        4 => format!(
            "PUT /api/v1/thresholds/{n} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{n}z\r\n"
        ),
        5 => format!("{n} nonsense\r\n\r\n"),
        6 => format!("GET / HTTP/{n}.0\r\n\r\n"),
        7 => format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{n}"),
        8 => format!("OPTIONS /livez-{n} HTTP/1.1\r\nHost: x\r\nOrigin: http://o{n}\r\n\r\n"),
        9 => format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-{n}: {}", "a".repeat(200_000)),
        10 => return [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &n.to_be_bytes()].concat(),
        _ => return n.to_be_bytes().to_vec(),
    };
    text.into_bytes()
}

async fn send(port: u16, n: u32) {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // A server may hang up in the middle of what it refuses.
        let _ = stream.write_all(&odd_request(n)).await;
        let _ = stream.shutdown().await;
        stream.read_to_end(&mut Vec::new()).await
    };
    // An answer, a reset and no answer are all the same here.
    let _ = timeout(ANSWER_WAIT, talk).await;
}

async fn send_many(ports: &[u16], from: u32, count: u32) {
    for begin in (from..from + count).step_by(AT_ONCE as usize) {
        let until = (begin + AT_ONCE).min(from + count);
        let strangers = ports.iter().flat_map(|port| (begin..until).map(|n| send(*port, n)));
        join_all(strangers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_leave_no_series_and_no_memory_behind() {
    let asked = std::env::vars().find_map(|(name, value)| (name == "STRANGERS").then_some(value));
    let requests = asked.map_or(REQUESTS, |count| count.parse().expect("STRANGERS is a number"));
    let system = System::start().await;
    let ports: Vec<u16> = Service::required().flat_map(|service| system.http_ports(service)).collect();
    send_many(&ports, 0, REQUESTS_BEFORE).await;
    let mut before = Vec::new();
    for service in Service::required() {
        before.push((system.metrics(service).await.lines().count(), system.resident_kib(service)));
    }
    send_many(&ports, REQUESTS_BEFORE, requests).await;
    for (service, (lines, kib)) in Service::required().zip(before) {
        let (lines_after, kib_after) =
            (system.metrics(service).await.lines().count(), system.resident_kib(service));
        println!("{}: /metrics {lines} -> {lines_after} lines, {kib} -> {kib_after} KiB", service.name);
        assert!(lines_after <= lines + GROWTH_LINES_MAX, "{}: {lines} -> {lines_after} lines", service.name);
        assert!(kib_after <= kib + GROWTH_KIB_MAX, "{}: {kib} -> {kib_after} KiB", service.name);
        // It works as before.
        for port in system.http_ports(service) {
            let answer = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await;
            answer.expect("an answer in time").unwrap();
        }
    }
}

//! Peers that nobody knows, at every port: neither series nor memory grow with what they send.
//!
//! `STRANGERS=100000` says how many come; a few hundred unless it does.

use crate::process::Process;
use crate::raw::Client;
use crate::stack::Stack;
use futures::future::join_all;
use testkit::free_port;
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Strangers unless the environment says otherwise: seconds.
const STRANGERS: usize = 300;
/// Strangers that come before anything is measured: each kind has been seen, and each buffer grown.
const FIRST: usize = 120;
/// Strangers at a time.
const ABREAST: usize = 8;
/// Series that may appear late: reasons of a fixed set that nobody was refused for before, such as a time
/// that ran out.
const SERIES_MAX: usize = 5;
/// What memory may differ by before and after, whoever came: pages that the allocator keeps.
const MEMORY_BYTES_MAX: usize = 16 << 20;

/// One stranger; its number makes what it sends its own.
async fn come(stack: &Stack, process: &Process, http_port: u16, number: usize) {
    let head = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: h{number}\r\n\r\n");
    let odd = head(&format!("M{number}"), &format!("/{number}?{number}"));
    match number % 8 {
        // Broken handshakes.
        0 => speak(process.port, format!("{number}: no TLS at all").as_bytes()).await,
        1 => {
            let own = u8::try_from(number % 256).unwrap();
            speak(http_port, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, own]).await;
        }
        // A handshake that lacks a certificate, where one is needed.
        2 => whisper(stack, process.port, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").await,
        // And where none is.
        3 => whisper(stack, http_port, odd.as_bytes()).await,
        4 => whisper(stack, http_port, head("POST", "/api/v1/readings").as_bytes()).await,
        5 => {
            let long = format!("GET / HTTP/1.1\r\nx{number}: {}\r\n\r\n", "y".repeat(100_000));
            whisper(stack, http_port, long.as_bytes()).await;
        }
        6 => whisper(stack, http_port, format!("{number} \r\n\r\n\0").as_bytes()).await,
        _ => speak(process.admin_port, odd.as_bytes()).await,
    }
}

/// Sends bytes over a bare socket, ends its own side, and listens to the end.
async fn speak(port: u16, bytes: &[u8]) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // Its outcome does not matter: the gateway may have heard enough.
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let _ = timeout(wait::PATIENCE, socket.read_to_end(&mut Vec::new())).await.expect("it ends");
}

/// Sends bytes over TLS, without a certificate.
async fn whisper(stack: &Stack, port: u16, bytes: &[u8]) {
    // In TLS 1.3 a client hears of a certificate that it lacks only after its own handshake.
    if let Ok(client) = Client::dial(port, &stack.pki.root_pem(), None).await {
        client.exchange(&[bytes]).await;
    }
}

async fn series(process: &Process) -> usize {
    let page = process.ask("/metrics").await.unwrap();
    page.lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_neither_series_nor_memory_behind() {
    let set = std::env::vars().find_map(|(key, value)| (key == "STRANGERS").then_some(value));
    let count = set.map_or(STRANGERS, |text| text.parse().unwrap());
    let stack = Stack::start().await;
    let http_port = free_port();
    let listen = format!("127.0.0.1:{http_port}");
    // The limit of an address would keep them out, and there would be nothing to see.
    let settings = [("HTTP_LISTEN", listen.as_str()), ("CONNECTION_RATE_PER_ADDRESS_MAX", "1000000")];
    let process = Process::start(&stack, &settings).await;
    let all_come = async |from: usize, to: usize| {
        for first in (from..to).step_by(ABREAST) {
            let numbers = first..to.min(first + ABREAST);
            join_all(numbers.map(|number| come(&stack, &process, http_port, number))).await;
        }
        wait::until("all of them have left", async || {
            (process.metric("gateway_connections").await == 0.0).then_some(())
        })
        .await;
    };
    all_come(0, FIRST).await;
    let before = (series(&process).await, process.resident_bytes(false));
    all_come(FIRST, FIRST + count).await;
    let after = (series(&process).await, process.resident_bytes(false));
    println!(
        "{count} strangers: {} and {} series, {} and {} KiB",
        before.0,
        after.0,
        before.1 >> 10,
        after.1 >> 10
    );
    let invented = after.0.saturating_sub(before.0);
    assert!(invented <= SERIES_MAX, "{invented} series for what strangers have invented");
    assert!(after.1 < before.1 + MEMORY_BYTES_MAX, "{} and {} bytes", before.1, after.1);
    let device = stack.register("a-1").await;
    process.enter(&stack, &device, "c").await;
}

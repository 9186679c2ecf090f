//! Peers that hold on to what others need.

use crate::raw::{Client, PINGREQ, PINGRESP, puback, publish};
use crate::stack::{Registered, Stack};
use std::time::{Duration, Instant};
use testkit::wait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Half-open sockets of one attacker.
const SOCKETS: usize = 1_000;
/// Connects that are measured.
const CONNECTS: usize = 40;
/// Far below the time after which a silent peer is cut off: who waited for one would take longer.
const CONNECT_MEDIAN_MAX: Duration = Duration::from_secs(2);

/// The first bytes of a TLS record of 512 bytes that holds a ClientHello.
const HELLO_START: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// Median and maximum time from the dial to the CONNACK.
async fn connect_times(stack: &Stack, device: &Registered) -> (Duration, Duration) {
    let mut times = Vec::new();
    for _ in 0..CONNECTS {
        let started = Instant::now();
        stack.dial(device).await.enter(5, "c").await;
        times.push(started.elapsed());
    }
    times.sort();
    (times[CONNECTS / 2], times[CONNECTS - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_delay_nobody() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let without = connect_times(&stack, &device).await;
    let mut sockets = Vec::new();
    for number in 0..SOCKETS {
        let mut socket = TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
        // Every other one is silent from the start.
        if number % 2 == 0 {
            socket.write_all(&HELLO_START).await.unwrap();
        }
        sockets.push(socket);
    }
    wait::until("all of them are there", async || {
        (stack.metric("gateway_handshakes") >= SOCKETS as f64).then_some(())
    })
    .await;
    let with = connect_times(&stack, &device).await;
    println!(
        "dial to CONNACK, median and maximum of {CONNECTS}: {without:?} alone, {with:?} beside {SOCKETS} half-open sockets"
    );
    assert!(with.0 < CONNECT_MEDIAN_MAX, "{with:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dribbled_frames_lose_their_share_of_the_budget() {
    // Room for one large frame at a time.
    let settings = [
        ("PACKET_BYTES_MAX", "40000"),
        ("IN_FLIGHT_BYTES_MAX", "90000"),
        ("IN_FLIGHT_TOTAL_BYTES_MAX", "90000"),
    ];
    let stack = Stack::with(&settings).await;
    let (slow, device) = (stack.register("slow-1").await, stack.register("a-1").await);
    let payload = format!(r#"{{"t":1,"text":"{}"}}"#, "x".repeat(38_000));
    let large = publish(5, 1, 1, &slow.mqtt_topic(), payload.as_bytes());
    let mut dribbler = stack.dial(&slow).await;
    dribbler.enter(5, "c").await;
    dribbler.send(&large[..20_000]).await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&PINGREQ).await;
    assert_eq!(client.frame().await.unwrap(), PINGRESP);
    client.send(&publish(5, 1, 1, &device.mqtt_topic(), payload.as_bytes())).await;
    let started = Instant::now();
    assert_eq!(client.frame().await.unwrap(), puback(1));
    println!("a frame that never ends held the whole budget for {:?}", started.elapsed());
    let end = dribbler.frame().await.unwrap();
    assert_eq!((end[0], end[2]), (0xe0, 0x83), "{end:02x?}");
    assert_eq!(dribbler.frame().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn body_that_never_ends_is_refused() {
    let stack = Stack::with(&[("HTTP_LISTEN", "127.0.0.1:0")]).await;
    let device = stack.register("a-1").await;
    let port = stack.http_port.unwrap();
    let mut client = Client::dial(port, &stack.pki.root_pem(), Some(&device.certificate)).await.unwrap();
    let cut = b"POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{\"t\":";
    let (status, ..) = client.ask(cut).await;
    assert_eq!(status, 408);
}

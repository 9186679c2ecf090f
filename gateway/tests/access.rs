//! Admission, its end, and where a device may publish.

use crate::raw::{Client, PINGREQ, PINGRESP, disconnect_reason, puback, publish, subscribe};
use crate::stack::{QUIET, Stack, next_reading};
use schema::{DeviceStatus, topics};
use testkit::pki::TestPki;
use testkit::wait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// In TLS 1.3 a client hears of its refused certificate only after its own handshake: then nothing answers
/// its CONNECT.
async fn is_refused_by_tls(client: std::io::Result<Client>) -> bool {
    match client {
        Err(_) => true,
        Ok(mut client) => client.try_connect().await.is_none(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_through_the_handshake() {
    let stack = Stack::start().await;
    let root = stack.pki.root_pem();
    assert!(is_refused_by_tls(Client::dial(stack.port, &root, None).await).await, "no certificate");
    let mut plain = TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut gone = TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
    gone.shutdown().await.unwrap();
    let foreign = TestPki::create().device("thermostat-1");
    stack.register("thermostat-1").await;
    assert!(
        is_refused_by_tls(Client::dial(stack.port, &root, Some(&foreign)).await).await,
        "foreign authority"
    );
    for reason in ["tls-no-certificate", "tls-unknown-authority", "not-tls", "tls-gone"] {
        wait::until(reason, async || {
            (stack.metric_of("gateway_refusals_total", reason) == 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_may_not_publish_are_refused() {
    let stack = Stack::start().await;
    let suspended = stack.register_as("suspended-1", DeviceStatus::Suspended).await;
    let retired = stack.register_as("retired-1", DeviceStatus::Retired).await;
    let rotated = stack.register("rotated-1").await;
    let unregistered = stack.pki.device("unregistered-1");
    let old = stack.pki.device("rotated-1");
    let certificates = [&suspended.certificate, &retired.certificate, &unregistered, &old];
    for certificate in certificates {
        for (version, code) in [(4, 0x05), (5, 0x87)] {
            let mut client =
                Client::dial(stack.port, &stack.pki.root_pem(), Some(certificate)).await.unwrap();
            let connack = client.connect(version, "c").await.expect("a CONNACK that refuses");
            assert_eq!((connack[0], connack[3]), (0x20, code), "{connack:02x?}");
            assert_eq!(client.frame().await, None, "and then the end");
        }
    }
    stack.dial(&rotated).await.enter(5, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_of_another_device_is_refused() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    stack.register("a-2").await;
    let mut v5 = stack.dial(&device).await;
    v5.enter(5, "v5").await;
    v5.send(&publish(5, 1, 1, "devices/a-1/readings", br#"{"t":1}"#)).await;
    v5.send(&publish(5, 1, 2, "devices/a-2/readings", br#"{"t":2}"#)).await;
    v5.send(&publish(5, 1, 3, "devices/a-1/readings/raw", br#"{"t":3}"#)).await;
    assert_eq!(v5.frame().await.unwrap(), puback(1));
    let refused = v5.frame().await.unwrap();
    assert_eq!((refused[0], &refused[2..5]), (0x40, [0, 2, 0x87].as_slice()), "in its turn: {refused:02x?}");
    assert_eq!(v5.frame().await.unwrap(), puback(3));
    let mut v4 = stack.dial(&device).await;
    v4.enter(4, "v4").await;
    v4.send(&publish(4, 1, 1, "été/x", br#"{"t":1}"#)).await;
    assert_eq!(v4.frame().await, None, "3.1.1 has no refusal, so the connection ends");
    let readings = stack.kafka.read(topics::READINGS);
    for value in [1.0, 3.0] {
        assert_eq!(next_reading(&readings).await.values["t"], value);
    }
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of the refused ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_device_is_disconnected_when_it_may_not_publish_any_more() {
    let stack = Stack::start().await;
    let [suspended, retired, rotated, bystander] = [
        stack.register("suspended-1").await,
        stack.register("retired-1").await,
        stack.register("rotated-1").await,
        stack.register("bystander-1").await,
    ];
    let mut clients = Vec::new();
    for device in [&suspended, &retired, &rotated, &bystander] {
        let mut client = stack.dial(device).await;
        client.enter(5, "c").await;
        clients.push(client);
    }
    stack.change(&suspended, |row| row.status = DeviceStatus::Suspended).await;
    stack.change(&retired, |row| row.status = DeviceStatus::Retired).await;
    stack.change(&rotated, |row| row.fingerprints.clear()).await;
    for (client, reason) in clients.iter_mut().zip([0x98, 0x98, 0x87]) {
        assert_eq!(disconnect_reason(&client.frame().await.unwrap()), reason);
        assert_eq!(client.frame().await, None);
    }
    clients[3].send(&PINGREQ).await;
    assert_eq!(clients[3].frame().await.unwrap(), PINGRESP, "the bystander stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_that_ends_before_a_suspension_lets_nobody_in() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let activate = async || stack.change_at(&device, Some(700), |row| row.version = 7).await;
    activate().await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    let suspend = |row: &mut schema::DeviceRow| (row.version, row.status) = (8, DeviceStatus::Suspended);
    stack.change_at(&device, Some(800), suspend).await;
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x98);
    activate().await;
    wait::until("the replay is read", async || {
        (stack.metric("gateway_device_changes_stale_total") == 1.0).then_some(())
    })
    .await;
    let connack = stack.dial(&device).await.connect(5, "c").await.expect("a CONNACK that refuses");
    assert_eq!(connack[3], 0x87, "{connack:02x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_zone_is_in_the_next_reading() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    stack.change(&device, |row| row.zone_id = "zone-2".to_owned()).await;
    let readings = stack.kafka.read(topics::READINGS);
    let mut packet_id = 0;
    wait::until("a reading from the new zone", async || {
        packet_id += 1;
        client.send(&publish(4, 1, packet_id, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
        (next_reading(&readings).await.zone_id == "zone-2").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn take_over_stays_within_one_device() {
    let stack = Stack::start().await;
    let (a, b) = (stack.register("a-1").await, stack.register("b-1").await);
    let (mut first, mut other, mut second) =
        (stack.dial(&a).await, stack.dial(&b).await, stack.dial(&a).await);
    first.enter(5, "same").await;
    other.enter(5, "same").await;
    second.enter(5, "same").await;
    assert_eq!(disconnect_reason(&first.frame().await.unwrap()), 0x8e);
    for client in [&mut other, &mut second] {
        client.send(&PINGREQ).await;
        assert_eq!(client.frame().await.unwrap(), PINGRESP);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn device_subscribes_below_its_own_branch_only() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    for (version, refused) in [(4, 0x80), (5, 0x87)] {
        let mut client = stack.dial(&device).await;
        client.enter(version, "c").await;
        for (filter, code) in
            [("devices/a-1/#", 0), ("devices/a-2/#", refused), ("#", refused), ("+/a-1/x", refused)]
        {
            client.send(&subscribe(version, 7, filter)).await;
            let suback = client.frame().await.unwrap();
            assert_eq!((suback[0], suback.last()), (0x90, Some(&code)), "{filter}: {suback:02x?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peer_delays_nobody_and_is_cut_off() {
    let stack = Stack::with(&[("HANDSHAKE_MS_MAX", "700"), ("CONNECT_MS_MAX", "700")]).await;
    let device = stack.register("a-1").await;
    let silent = TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
    let mut mute = stack.dial(&device).await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let mut buffer = [0; 1];
    wait::until("the silent peer is cut off", async || {
        matches!(silent.try_read(&mut buffer), Ok(0)).then_some(())
    })
    .await;
    assert_eq!(mute.frame().await, None, "so is the one without a CONNECT");
    for reason in ["handshake-timeout", "connect-timeout"] {
        assert_eq!(stack.metric_of("gateway_refusals_total", reason), 1.0, "{reason}");
    }
    client.send(&PINGREQ).await;
    assert_eq!(client.frame().await.unwrap(), PINGRESP);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_limited() {
    let stack = Stack::with(&[("CONNECTIONS_PER_ADDRESS_MAX", "1")]).await;
    let device = stack.register("a-1").await;
    let mut first = stack.dial(&device).await;
    first.enter(4, "c").await;
    assert!(Client::dial(stack.port, &stack.pki.root_pem(), Some(&device.certificate)).await.is_err());
    assert_eq!(stack.metric_of("gateway_refusals_total", "connections-per-address-max"), 1.0);
    drop(first);
    wait::until("the place is free again", async || {
        Client::dial(stack.port, &stack.pki.root_pem(), Some(&device.certificate)).await.ok()
    })
    .await;
}

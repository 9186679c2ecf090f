//! Devices that are registered, and do all they can to hurt others.

use e2e::System;
use iotctl::pki::DeviceCertificate;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connections that one that wants many opens: more than it may have.
const CONNECTIONS: usize = 64;
/// The wait between two bytes of one that dribbles.
const DRIBBLE: Duration = Duration::from_millis(500);
/// Bytes of what is large: a packet that the gateway still takes.
const LARGE_BYTES: usize = 200_000;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SlowBodies,
    SlowFrames,
    PoisonValues,
    HugeAttributes,
    RefusedTopics,
    Subscribes,
    Pings,
    DeathsAndBirths,
    Reconnects,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::SlowBodies,
        Self::SlowFrames,
        Self::PoisonValues,
        Self::HugeAttributes,
        Self::RefusedTopics,
        Self::Subscribes,
        Self::Pings,
        Self::DeathsAndBirths,
        Self::Reconnects,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SlowBodies => "slow bodies",
            Self::SlowFrames => "slow frames",
            Self::PoisonValues => "poison values",
            Self::HugeAttributes => "huge attributes",
            Self::RefusedTopics => "refused topics",
            Self::Subscribes => "SUBSCRIBEs",
            Self::Pings => "PINGREQs",
            Self::DeathsAndBirths => "Sparkplug deaths and births",
            Self::Reconnects => "reconnects",
        }
    }

    /// The gateway's metric, and the label, that grow because of it.
    pub(super) const fn held_back_by(self) -> (&'static str, &'static str) {
        match self {
            Self::SlowBodies | Self::SlowFrames => ("gateway_refusals_total", "connections-per-device-max"),
            Self::Reconnects => ("gateway_sessions_ended_total", "left"),
            _ => ("gateway_read_pauses_total", "rate"),
        }
    }

    /// Names its codec.
    const fn codec(self) -> &'static str {
        match self {
            Self::DeathsAndBirths => "sparkplug-b",
            _ => "json",
        }
    }
}

/// A hostile device and the gateway that it goes to.
struct Hostile {
    sensor_id: String,
    root_pem: String,
    certificate: DeviceCertificate,
    mqtt_port: u16,
    http_port: u16,
}

/// Starts one; it ends when this is dropped.
pub(super) async fn start(system: &System, kind: Kind, round: usize) -> JoinSet<()> {
    let sensor_id = format!("hostile-{kind:?}-{round}");
    let certificate = system.register_as(&sensor_id, kind.codec()).await;
    let hostile = Arc::new(Hostile {
        sensor_id,
        root_pem: system.pki.root_pem(),
        certificate,
        mqtt_port: system.mqtt_port,
        http_port: system.http_port,
    });
    let mut tasks = JoinSet::new();
    let connections = if matches!(kind, Kind::SlowBodies | Kind::SlowFrames) { CONNECTIONS } else { 4 };
    for number in 0..connections {
        let hostile = hostile.clone();
        tasks.spawn(async move {
            loop {
                // It wants to be refused, so a refusal is no failure.
                let _ = hostile.misbehave(kind, number).await;
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    tasks
}

impl Hostile {
    async fn misbehave(&self, kind: Kind, number: usize) -> std::io::Result<()> {
        if kind == Kind::SlowBodies {
            let mut stream = self.dial(self.http_port).await?;
            let head = "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n";
            return dribble(&mut stream, head.as_bytes()).await;
        }
        let mut stream = self.dial(self.mqtt_port).await?;
        stream.write_all(&connect(&format!("c{number}"))).await?;
        let own = format!("devices/{}/readings", self.sensor_id);
        let packets = match kind {
            Kind::SlowBodies => Vec::new(),
            Kind::SlowFrames => {
                let packet = publish(&own, &vec![b' '; LARGE_BYTES]);
                return dribble(&mut stream, &packet[..1_000]).await;
            }
            Kind::Reconnects => {
                let mut connack = [0; 2];
                stream.read_exact(&mut connack).await?;
                stream.write_all(&[0xe0, 0]).await?;
                return stream.shutdown().await;
            }
            Kind::PoisonValues => publish(&own, br#"{"poison":1e300,"good":1}"#).repeat(100),
            Kind::HugeAttributes => {
                let payload = format!(r#"{{"t":1,"text":"{}"}}"#, "x".repeat(LARGE_BYTES));
                publish(&own, payload.as_bytes())
            }
            Kind::RefusedTopics => publish("devices/good-0/readings", br#"{"t":1}"#).repeat(100),
            Kind::Subscribes => subscribe(&format!("devices/{}/x", self.sensor_id), LARGE_BYTES),
            Kind::Pings => [0xc0, 0].repeat(1_000),
            Kind::DeathsAndBirths => {
                let birth = publish(&format!("{own}/NBIRTH"), &[]);
                let death = publish(&format!("{own}/NDEATH"), &[]);
                [death, birth].concat().repeat(50)
            }
        };
        self.flood(stream, &packets).await
    }

    /// Sends the same again and again, and listens to nothing.
    async fn flood(&self, stream: TlsStream<tokio::net::TcpStream>, packets: &[u8]) -> std::io::Result<()> {
        let (mut read, mut write) = tokio::io::split(stream);
        let listen = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await.map(|_| ()) };
        let speak = async {
            loop {
                write.write_all(packets).await?;
                write.flush().await?;
            }
        };
        tokio::select! {
            heard = listen => heard,
            spoken = speak => spoken,
        }
    }

    /// Connects from an address that no good device has.
    async fn dial(&self, port: u16) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 2], 0).into())?;
        let socket = socket.connect(([127, 0, 0, 1], port).into()).await?;
        let tls = testkit::device::tls(&self.root_pem, Some(&self.certificate));
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(tls)).connect(name, socket).await
    }
}

/// Sends a beginning, and then a byte at a time.
async fn dribble(stream: &mut TlsStream<tokio::net::TcpStream>, beginning: &[u8]) -> std::io::Result<()> {
    stream.write_all(beginning).await?;
    loop {
        stream.write_all(b" ").await?;
        stream.flush().await?;
        sleep(DRIBBLE).await;
    }
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut frame, mut length) = (vec![first], body.len());
    loop {
        let byte = u8::try_from(length % 128).unwrap();
        length /= 128;
        frame.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    frame.extend_from_slice(body);
    frame
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// MQTT 5, for a refused topic ends a connection in 3.1.1.
fn connect(client_id: &str) -> Vec<u8> {
    frame(0x10, &[b"\x00\x04MQTT\x05\x02\x00\x00\x00".as_slice(), &text(client_id)].concat())
}

/// A PUBLISH at QoS 1. Its packet id is always the same: nobody here waits for a PUBACK.
fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    frame(0x32, &[&text(topic), [0, 1, 0].as_slice(), payload].concat())
}

/// A SUBSCRIBE of one filter again and again.
fn subscribe(filter: &str, bytes: usize) -> Vec<u8> {
    let filter = [text(filter), vec![0]].concat();
    frame(0x82, &[[0, 1, 0].as_slice(), &filter.repeat(bytes / filter.len())].concat())
}

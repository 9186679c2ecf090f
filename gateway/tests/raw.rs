//! A client that sends bytes and sees frames: for what a well-behaved library would never do or show.

use iotctl::pki::DeviceCertificate;
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use testkit::wait::PATIENCE;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
}

impl Client {
    pub(crate) async fn dial(
        port: u16,
        root_pem: &str,
        device: Option<&DeviceCertificate>,
    ) -> io::Result<Self> {
        let connector = TlsConnector::from(Arc::new(testkit::device::tls(root_pem, device)));
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = timeout(PATIENCE, connector.connect(name, socket)).await??;
        Ok(Self { stream })
    }

    /// The bare connection.
    pub(crate) fn into_stream(self) -> TlsStream<TcpStream> {
        self.stream
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends, and tells whether the connection still takes it.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Sends a request and reads its answer: status, head in lower case, body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> (u16, String, String) {
        self.send(request).await;
        timeout(PATIENCE, self.read_answer()).await.expect("waited in vain for an answer")
    }

    /// Sends a request and reads the head of its answer alone.
    pub(crate) async fn ask_head(&mut self, request: &[u8]) -> (u16, String) {
        self.send(request).await;
        timeout(PATIENCE, self.read_head()).await.expect("waited in vain for an answer")
    }

    async fn read_head(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }

    async fn read_answer(&mut self) -> (u16, String, String) {
        let (status, head) = self.read_head().await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        (status, head, String::from_utf8(body).unwrap())
    }

    /// Sends chunks while it listens, ends its own side, and returns all that came until the gateway has
    /// ended the other.
    pub(crate) async fn exchange(self, chunks: &[&[u8]]) -> Vec<u8> {
        exchange(self.stream, chunks).await
    }

    /// The next frame, or none when the gateway has closed.
    pub(crate) async fn frame(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, self.read_frame()).await.expect("waited in vain for a frame or the end")
    }

    async fn read_frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![self.stream.read_u8().await.ok()?];
        let mut len = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.stream.read_u8().await.ok()?;
            frame.push(byte);
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let start = frame.len();
        frame.resize(start + len, 0);
        self.stream.read_exact(&mut frame[start..]).await.ok()?;
        Some(frame)
    }

    /// Tries a CONNECT on a connection that may be closed already; none when there is no answer.
    pub(crate) async fn try_connect(&mut self) -> Option<Vec<u8>> {
        let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
        // A failed write is as good an end as a failed read.
        let _ = self.stream.write_all(connect).await;
        let _ = self.stream.flush().await;
        self.frame().await
    }

    /// Connects as `version` (4 or 5) and returns the CONNACK.
    pub(crate) async fn connect(&mut self, version: u8, client_id: &str) -> Option<Vec<u8>> {
        self.connect_with(version, client_id, 0).await
    }

    pub(crate) async fn connect_with(
        &mut self,
        version: u8,
        client_id: &str,
        keep_alive_s: u8,
    ) -> Option<Vec<u8>> {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let body = [b"\x00\x04MQTT", [version, 2, 0, keep_alive_s].as_slice(), properties, &text(client_id)]
            .concat();
        self.send(&frame(0x10, &body)).await;
        self.frame().await
    }

    /// Connects and insists on a welcome.
    pub(crate) async fn enter(&mut self, version: u8, client_id: &str) {
        let connack = self.connect(version, client_id).await.expect("a CONNACK");
        assert_eq!(connack[..1], [0x20], "{connack:02x?}");
        assert_eq!(connack[3], 0, "{connack:02x?}");
    }
}

/// As [`Client::exchange`], over any stream.
pub(crate) async fn exchange(stream: impl AsyncRead + AsyncWrite, chunks: &[&[u8]]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        for chunk in chunks {
            writer.write_all(chunk).await?;
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    let mut received = Vec::new();
    let (_, read) = timeout(PATIENCE, async { tokio::join!(send, reader.read_to_end(&mut received)) })
        .await
        .expect("waited in vain for the end of a connection");
    // A gateway that has heard enough resets the connection or ends it without TLS's good-bye; either is an
    // end.
    drop(read);
    received
}

/// A packet with a true length.
pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let mut len = body.len();
    loop {
        let byte = u8::try_from(len % 128).unwrap();
        len /= 128;
        frame.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    frame.extend_from_slice(body);
    frame
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// A PUBLISH at QoS 0, 1 or 2.
pub(crate) fn publish(version: u8, qos: u8, packet_id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = &packet_id.to_be_bytes();
    let id = if qos == 0 { &[] } else { id };
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    frame(0x30 | qos << 1, &[&text(topic), id, properties, payload].concat())
}

/// A PUBACK that says yes.
pub(crate) fn puback(packet_id: u16) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    vec![0x40, 2, high, low]
}

/// A SUBSCRIBE with one filter.
pub(crate) fn subscribe(version: u8, packet_id: u16, filter: &str) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    frame(0x82, &[&packet_id.to_be_bytes(), properties, &text(filter), &[1]].concat())
}

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const PINGRESP: [u8; 2] = [0xd0, 0];

/// The reason code of a v5 DISCONNECT.
pub(crate) fn disconnect_reason(frame: &[u8]) -> u8 {
    assert_eq!(frame[0], 0xe0, "{frame:02x?} is no DISCONNECT");
    frame[2]
}

//! A device's connection in as few instructions as will do: frames are encoded beforehand and written many at
//! a time.

use super::fleet::Device;
use crate::readings::mix;
use anyhow::{Context as _, Result, bail, ensure};
use rustls_pki_types::ServerName;
use schema::Timestamp;
use std::io::Write as _;
use std::ops::Range;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than any measurement, so that no ping is due; the gateway keeps a timer for it all the same.
const KEEP_ALIVE_S: u16 = 3_600;
/// Bytes of a PUBACK that says yes: in both versions the same four.
const PUBACK_BYTES: usize = 4;
/// Windows of frames that are encoded beforehand, each with other values.
const WINDOWS_ENCODED: u16 = 4;

/// A connection behind its CONNACK.
pub(super) struct Link {
    stream: TlsStream<TcpStream>,
    frames: Frames,
    /// PUBLISH packets written, and PUBACK packets read.
    pub(super) sent: u32,
    pub(super) acked: u32,
    /// The beginning of a PUBACK that is not whole yet.
    part: Vec<u8>,
}

/// What a device publishes, again and again.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Link {
    /// Connects as MQTT `version` (4 or 5).
    pub(super) async fn open(port: u16, device: &Device, version: u8) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").context("name the gateway")?;
        let mut stream =
            TlsConnector::from(device.tls.clone()).connect(name, socket).await.context("shake hands")?;
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let [high, low] = KEEP_ALIVE_S.to_be_bytes();
        let head = [0, 4, b'M', b'Q', b'T', b'T', version, 2, high, low];
        stream.write_all(&frame(0x10, &[&head, properties, &text(&device.sensor_id)])).await?;
        stream.flush().await?;
        let mut start = [0; 4];
        stream.read_exact(&mut start).await.context("read the CONNACK")?;
        ensure!(start[0] == 0x20 && start[3] == 0, "the gateway refuses {}: {start:02x?}", device.sensor_id);
        // Less than 128 bytes: what it says fits one byte of length.
        let mut rest = vec![0; usize::from(start[1]).saturating_sub(2)];
        stream.read_exact(&mut rest).await.context("read the CONNACK")?;
        Ok(Self { stream, frames: Frames::default(), sent: 0, acked: 0, part: Vec::new() })
    }

    /// Encodes what it will publish.
    pub(super) fn load(&mut self, device: &Device, version: u8, window: u16) {
        let now_ms = Timestamp::now().as_micros() / 1_000;
        let topic = text(&format!("devices/{}/readings", device.sensor_id));
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        for id in 1..=window.saturating_mul(WINDOWS_ENCODED) {
            let noise = mix(now_ms.unsigned_abs() << 16 | u64::from(id));
            let mut payload = Vec::new();
            // Writing to a vector does not fail.
            let _ = write!(
                payload,
                r#"{{"timestamp":{},"temperature":{:.2},"humidity":{:.1}}}"#,
                now_ms + i64::from(id),
                15.0 + (noise % 1_000) as f64 / 100.0,
                30.0 + (noise >> 32 & 0xff) as f64 / 10.0
            );
            self.frames.bytes.extend(frame(0x32, &[&topic, &id.to_be_bytes(), properties, &payload]));
            self.frames.ends.push(self.frames.bytes.len());
        }
    }

    /// Messages that are not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.sent - self.acked
    }

    /// Writes the next messages.
    pub(super) async fn publish(&mut self, mut count: u32) -> Result<()> {
        while count > 0 {
            let (range, taken) = self.frames.next(self.sent, count);
            self.stream.write_all(&self.frames.bytes[range]).await.context("publish")?;
            self.sent += taken;
            count -= taken;
        }
        self.stream.flush().await.context("publish")
    }

    /// Reads until at least one more message is acknowledged, and says how many are. Cancel-safe.
    pub(super) async fn acknowledged(&mut self) -> Result<u32> {
        let mut chunk = [0; 4096];
        loop {
            let count = self.stream.read(&mut chunk).await.context("read a PUBACK")?;
            ensure!(count > 0, "the gateway closes a connection");
            self.part.extend_from_slice(&chunk[..count]);
            let whole = self.part.len() / PUBACK_BYTES;
            for puback in self.part[..whole * PUBACK_BYTES].chunks_exact(PUBACK_BYTES) {
                let expected = self.frames.id(self.acked);
                let [0x40, 2, high, low] = *puback else { bail!("not a PUBACK: {puback:02x?}") };
                ensure!(expected == [high, low], "PUBACK {puback:02x?} is not the one for {expected:02x?}");
                self.acked += 1;
            }
            self.part.drain(..whole * PUBACK_BYTES);
            if whole > 0 {
                return Ok(u32::try_from(whole)?);
            }
        }
    }
}

impl Frames {
    /// Returns the bytes of up to `count` frames after the first `sent`, as many as lie together, and their
    /// number.
    fn next(&self, sent: u32, count: u32) -> (Range<usize>, u32) {
        let first = sent as usize % self.ends.len();
        let last = (first + count as usize).min(self.ends.len());
        let start = if first == 0 { 0 } else { self.ends[first - 1] };
        (start..self.ends[last - 1], u32::try_from(last - first).unwrap_or(count))
    }

    /// Returns the packet id of the frame after the first `sent`.
    fn id(&self, sent: u32) -> [u8; 2] {
        u16::try_from(sent as usize % self.ends.len() + 1).unwrap_or(u16::MAX).to_be_bytes()
    }
}

fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

/// Encodes a packet of less than 16,384 bytes.
fn frame(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let [low, high] = [len % 128, len / 128].map(|digit| u8::try_from(digit).unwrap_or(u8::MAX));
    let mut frame = if high == 0 { vec![first, low] } else { vec![first, low | 0x80, high] };
    frame.extend(parts.concat());
    frame
}

//! One device's connection: a window of unacknowledged messages, kept over reconnects.

use crate::pki::DeviceFiles;
use anyhow::{Context as _, Result, bail};
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, Request, TlsConfiguration, Transport,
};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Most messages that a device has sent and not seen acknowledged; what the gateway allows by default.
const WINDOW: u16 = 100;
/// Messages that wait beside the window; a publisher that is faster waits too.
const QUEUE: usize = 10;
/// Pause before connecting again.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Time after which a gateway that does not take the device back counts as gone. A registration needs a
/// moment to reach it.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Silence at the end of a device's work after which the rest is reported as lost.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The same when it was told to stop: its caller waits ten seconds.
pub(super) const SILENCE_STOPPED_MAX: Duration = Duration::from_secs(5);
/// Keep-alive of small devices on mobile networks.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where devices publish.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Name or address, as the server's certificate has it.
    pub host: String,
    /// Port of MQTT over TLS.
    pub port: u16,
}

/// A connected device.
pub struct Device {
    sensor_id: String,
    topic: String,
    client: AsyncClient,
    published: AtomicU64,
    acked: watch::Receiver<u64>,
    pump: JoinHandle<Result<()>>,
}

impl Device {
    /// Connects over mutual TLS and returns once the gateway has accepted the device.
    ///
    /// # Errors
    /// The certificate's files cannot be read, or the gateway does not accept the device in time.
    pub async fn connect(sensor_id: &str, ca: &Path, files: &DeviceFiles, broker: &Broker) -> Result<Self> {
        let mut options = MqttOptions::new(sensor_id, &broker.host, broker.port);
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: read(ca)?,
            alpn: None,
            client_auth: Some((read(&files.cert)?, read(&files.key)?)),
        }));
        options.set_keep_alive(KEEP_ALIVE).set_inflight(WINDOW);
        let (client, events) = AsyncClient::new(options, QUEUE);
        let (connected_tx, mut connected) = watch::channel(false);
        let (acked_tx, acked) = watch::channel(0);
        let mut pump = tokio::spawn(pump(events, connected_tx, acked_tx));
        tokio::select! {
            ended = &mut pump => ended.context("run the connection")?.with_context(|| format!("connect {sensor_id}"))?,
            _ = connected.wait_for(|&connected| connected) => {}
        }
        let topic = format!("devices/{sensor_id}/readings");
        Ok(Self { sensor_id: sensor_id.to_owned(), topic, client, published: AtomicU64::new(0), acked, pump })
    }

    /// Publishes with QoS 1, and waits while the window is full.
    ///
    /// # Errors
    /// The gateway is gone for good.
    pub async fn publish(&self, payload: Vec<u8>) -> Result<()> {
        let sent = self.client.publish(&self.topic, QoS::AtLeastOnce, false, payload).await;
        sent.with_context(|| format!("publish for {}: its connection has ended", self.sensor_id))?;
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until everything is acknowledged, with at most `silence_max` between two acknowledgements, and
    /// disconnects. Returns how many messages that were.
    ///
    /// # Errors
    /// Some messages are not acknowledged; the message says how many.
    pub async fn finish(mut self, silence_max: Duration) -> Result<u64> {
        let published = self.published.load(Ordering::Relaxed);
        loop {
            let acked = *self.acked.borrow_and_update();
            if acked >= published {
                break;
            }
            if !matches!(timeout(silence_max, self.acked.changed()).await, Ok(Ok(()))) {
                let lost = published - acked;
                bail!("{}: {lost} of {published} messages were not acknowledged", self.sensor_id);
            }
        }
        // The gateway sees an orderly end; if it is gone, everything has been acknowledged all the same.
        if self.client.disconnect().await.is_ok() {
            let _ = timeout(Duration::from_secs(5), &mut self.pump).await;
        }
        self.pump.abort();
        Ok(published)
    }
}

/// Drives the connection and counts acknowledgements, until it disconnects or the gateway is gone for good.
async fn pump(
    mut events: EventLoop,
    connected: watch::Sender<bool>,
    acked: watch::Sender<u64>,
) -> Result<()> {
    let mut unacknowledged: VecDeque<Request> = VecDeque::new();
    let mut away_since = Some(Instant::now());
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                // A new session makes the client forget what is unacknowledged; QoS 1 is a promise, so it is
                // sent again.
                events.pending.append(&mut unacknowledged);
                away_since = None;
                connected.send_replace(true);
            }
            Ok(Event::Incoming(Packet::PubAck(_))) => acked.send_modify(|acked| *acked += 1),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                unacknowledged.append(&mut events.pending);
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > AWAY_MAX {
                    return Err(Arc::new(error)).context("the gateway refuses the device or is gone");
                }
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

//! Devices as strangers build them: rumqttc in 3.1.1 and 5, a small window, everything without a PUBACK sent
//! again after the next connect, byte for byte.

use crate::System;
use futures::future::BoxFuture;
use iotctl::pki::DeviceCertificate;
use rumqttc::{Outgoing, Transport, v5};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Messages of a device without their PUBACK.
const WINDOW: usize = 8;
/// Two words for each message at most, twice over: the library never waits for the device.
const SAID_MAX: usize = 4 * WINDOW;
/// Time without a PUBACK after which a device connects again.
const PUBACK_WAIT: Duration = Duration::from_secs(10);
/// The wait before that.
const RECONNECT_WAIT: Duration = Duration::from_millis(200);
/// The devices' clock starts here, in milliseconds since 1970; each message is a millisecond later.
const BEGIN_MS: i64 = 1_767_322_800_000;

/// A registered device.
pub struct Member {
    /// Its name.
    pub sensor_id: String,
    /// What it shows.
    pub certificate: DeviceCertificate,
}

/// A message that a device has a PUBACK for.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Index of the device.
    pub member: usize,
    /// Number of its message, from 1.
    pub number: i64,
    /// When the PUBACK came.
    pub at: Instant,
    /// How long after the message was first published.
    pub took: Duration,
}

impl Acknowledged {
    /// Returns the id of the event that the message makes.
    ///
    /// # Panics
    /// Never: the clock is a constant.
    pub fn event_id(&self, sensor_id: &str) -> String {
        let at = schema::Timestamp::from_micros((BEGIN_MS + self.number) * 1_000).unwrap();
        schema::event_id_from_payload(sensor_id, at, payload(self.number).as_bytes()).to_string()
    }
}

fn payload(number: i64) -> String {
    format!(r#"{{"number":{number},"timestamp":{}}}"#, BEGIN_MS + number)
}

/// Running devices; they end with this value.
pub struct Fleet {
    shared: Arc<Shared>,
    is_publishing: watch::Sender<bool>,
    members: Vec<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    root_pem: String,
    pace: Duration,
    published: AtomicU64,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

impl Fleet {
    /// Connects the devices. Once they are to publish, each publishes one message in `pace`, as far as its
    /// window allows.
    pub fn start(system: &System, members: Vec<Member>, pace: Duration) -> Self {
        let shared = Arc::new(Shared {
            port: system.mqtt_port,
            root_pem: system.pki.root_pem(),
            pace,
            published: AtomicU64::new(0),
            acknowledged: Mutex::default(),
        });
        let is_publishing = watch::Sender::new(false);
        let run = |(index, member)| {
            let device = Device {
                index,
                member,
                shared: shared.clone(),
                is_publishing: is_publishing.subscribe(),
                last: 0,
                unacknowledged: BTreeMap::new(),
            };
            tokio::spawn(device.run())
        };
        let members = members.into_iter().enumerate().map(run).collect();
        Self { shared, is_publishing, members }
    }

    /// Has the devices publish something new, or only finish what they have begun.
    pub fn set_publishing(&self, is_publishing: bool) {
        self.is_publishing.send_replace(is_publishing);
    }

    /// Returns how many different messages have been published.
    pub fn published(&self) -> u64 {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// Returns what has been acknowledged since there were `from` acknowledgements.
    ///
    /// # Panics
    /// A device has panicked.
    pub fn acknowledged(&self, from: usize) -> Vec<Acknowledged> {
        self.shared.acknowledged.lock().unwrap()[from..].to_vec()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.members.iter().for_each(JoinHandle::abort);
    }
}

struct Device {
    index: usize,
    member: Member,
    shared: Arc<Shared>,
    is_publishing: watch::Receiver<bool>,
    last: i64,
    /// Numbers, and when each was first published.
    unacknowledged: BTreeMap<i64, Instant>,
}

impl Device {
    async fn run(mut self) {
        loop {
            if let Some(connection) = Connection::open(&self).await {
                self.publish_on(connection).await;
            }
            sleep(RECONNECT_WAIT).await;
        }
    }

    /// Publishes until the connection ends or falls silent.
    async fn publish_on(&mut self, mut connection: Connection) {
        let mut pace = interval(self.shared.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        let again: Vec<_> = self.unacknowledged.keys().copied().collect();
        for number in again {
            connection.publish(number).await;
        }
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    if self.unacknowledged.len() < WINDOW && *self.is_publishing.borrow() {
                        self.last += 1;
                        self.unacknowledged.insert(self.last, Instant::now());
                        self.shared.published.fetch_add(1, Ordering::SeqCst);
                        connection.publish(self.last).await;
                    }
                    if !self.unacknowledged.is_empty() && heard_at.elapsed() > PUBACK_WAIT {
                        return;
                    }
                    if self.unacknowledged.is_empty() {
                        heard_at = Instant::now();
                    }
                }
                number = connection.acknowledged() => {
                    let Some(number) = number else { return };
                    heard_at = Instant::now();
                    if let Some(published_at) = self.unacknowledged.remove(&number) {
                        self.shared.acknowledged.lock().unwrap().push(Acknowledged {
                            member: self.index,
                            number,
                            at: heard_at,
                            took: heard_at - published_at,
                        });
                    }
                }
            }
        }
    }
}

/// What a device has to know of what its client library says.
enum Said {
    Sent(u16),
    Acknowledged(u16),
}

/// One connection of either version.
struct Connection {
    topic: String,
    publish: Publish,
    said: mpsc::Receiver<Said>,
    polling: JoinHandle<()>,
    /// Numbers that have no packet id yet, in the order of publishing.
    unsent: VecDeque<i64>,
    sent: HashMap<u16, i64>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Connection {
    /// Connects, the even devices as 3.1.1 and the odd ones as 5; none when that fails.
    async fn open(device: &Device) -> Option<Self> {
        let Device { index, member, shared, .. } = device;
        let tls = testkit::device::tls(&shared.root_pem, Some(&member.certificate));
        let transport = Transport::Tls(rumqttc::TlsConfiguration::Rustls(Arc::new(tls)));
        let (say, said) = mpsc::channel(SAID_MAX);
        let (publish, polling) = if index % 2 == 0 {
            open_v4(&member.sensor_id, shared.port, transport, say).await?
        } else {
            open_v5(&member.sensor_id, shared.port, transport, say).await?
        };
        let topic = format!("devices/{}/readings", member.sensor_id);
        Some(Self { topic, publish, said, polling, unsent: VecDeque::new(), sent: HashMap::new() })
    }

    async fn publish(&mut self, number: i64) {
        self.unsent.push_back(number);
        (self.publish)(self.topic.clone(), payload(number)).await;
    }

    /// Waits for the next number that is acknowledged; none when the connection has ended.
    async fn acknowledged(&mut self) -> Option<i64> {
        loop {
            match self.said.recv().await? {
                Said::Sent(packet_id) => {
                    let number = self.unsent.pop_front().expect("only what was published is sent");
                    self.sent.insert(packet_id, number);
                }
                Said::Acknowledged(packet_id) => {
                    return Some(self.sent.remove(&packet_id).expect("only what was sent is acknowledged"));
                }
            }
        }
    }
}

type Publish = Box<dyn Fn(String, String) -> BoxFuture<'static, ()> + Send + Sync>;

async fn open_v4(
    name: &str,
    port: u16,
    transport: Transport,
    say: mpsc::Sender<Said>,
) -> Option<(Publish, JoinHandle<()>)> {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let mut options = MqttOptions::new(name, "localhost", port);
    options.set_transport(transport);
    let (client, mut events) = AsyncClient::new(options, 2 * WINDOW);
    while !matches!(events.poll().await.ok()?, Event::Incoming(Packet::ConnAck(_))) {}
    let polling = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            let said = match event {
                Event::Outgoing(Outgoing::Publish(packet_id)) => Said::Sent(packet_id),
                Event::Incoming(Packet::PubAck(puback)) => Said::Acknowledged(puback.pkid),
                _ => continue,
            };
            if say.send(said).await.is_err() {
                return;
            }
        }
    });
    let publish: Publish = Box::new(move |topic, payload| {
        let client = client.clone();
        // It fails when the connection has ended, which is seen elsewhere.
        Box::pin(async move { drop(client.publish(topic, QoS::AtLeastOnce, false, payload).await) })
    });
    Some((publish, polling))
}

async fn open_v5(
    name: &str,
    port: u16,
    transport: Transport,
    say: mpsc::Sender<Said>,
) -> Option<(Publish, JoinHandle<()>)> {
    use v5::mqttbytes::v5::{Packet, PubAckReason};
    use v5::{AsyncClient, Event, MqttOptions, mqttbytes::QoS};
    let mut options = MqttOptions::new(name, "localhost", port);
    options.set_transport(transport).set_outgoing_inflight_upper_limit(100);
    let (client, mut events) = AsyncClient::new(options, 2 * WINDOW);
    while !matches!(events.poll().await.ok()?, Event::Incoming(Packet::ConnAck(_))) {}
    let polling = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            let said = match event {
                Event::Outgoing(Outgoing::Publish(packet_id)) => Said::Sent(packet_id),
                Event::Incoming(Packet::PubAck(puback)) if puback.reason == PubAckReason::Success => {
                    Said::Acknowledged(puback.pkid)
                }
                _ => continue,
            };
            if say.send(said).await.is_err() {
                return;
            }
        }
    });
    let publish: Publish = Box::new(move |topic, payload| {
        let client = client.clone();
        // It fails when the connection has ended, which is seen elsewhere.
        Box::pin(async move { drop(client.publish(topic, QoS::AtLeastOnce, false, payload).await) })
    });
    Some((publish, polling))
}

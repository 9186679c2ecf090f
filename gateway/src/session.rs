//! One connection after its CONNECT: packets in, records out, acknowledgements back.
//!
//! One task, no channels. A turn takes what is done from the window, hands on what has been read, writes, and reads more; when a
//! message finds no room (in the window, in the budget of all connections, or in the producer's queue) nothing more is read
//! from the socket until it does, so backpressure reaches the device. A client that keeps to its Receive Maximum is still
//! read, and its PINGREQ answered, while all its messages wait for Kafka.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use schema::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::Gateway;
use crate::budget::Share;
use crate::deadline::Deadline;
use crate::decode::{self, Births, Message, Undecodable};
use crate::identity::Identity;
use crate::mqtt::{
    Decoder, DisconnectReason, Encoder, Packet, PubAckReason, Publish, Qos, Refusal, SubAckReason, Version,
    topic,
};
use crate::publish::{DeadLetter, NotTaken, Record};
use crate::rate::Rate;
use crate::registry::{Denied, Device};
use crate::window::{Closing, Outcome, Promise, RECORD_OVERHEAD_BYTES, Window};
use crate::wire::Wire;

/// Bytes of the largest event: below the million that a Kafka client takes by default, headers and all.
const EVENT_BYTES_MAX: usize = 900_000;
/// A frame up to this size is read without asking the budget; a larger one gets its share before the rest is read.
const FREE_FRAME_BYTES_MAX: usize = 16 * 1024;
/// With more output than this, nothing is read: the client asks faster than it listens.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// A client that takes none of its output for so long is gone.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// A frame may take so long, and one second more for every [`FRAME_BYTES_PER_S_MIN`]: it may hold a share of the budget of all
/// connections meanwhile, and the largest frame of a 64 kbit/s line is there after 32 s.
const FRAME_TIME_BASE: Duration = Duration::from_secs(10);
/// A sensor on the slowest line that carries MQTT is faster than this; one that dribbles its frame on purpose is not.
const FRAME_BYTES_PER_S_MIN: usize = 8 * 1024;
/// What a device is told that publishes elsewhere.
const OWN_TOPIC_ONLY: &str =
    "publish to devices/<your sensor id>/readings or below it only; the sensor id is your certificate's CN";
/// What a device is told whose messages were not acknowledged.
const NOT_STORED: &str = "not stored: connect again and publish again what has no PUBACK";
/// The wait before a full producer queue is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(5);

/// How a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said DISCONNECT.
    Left,
    /// The socket ended or failed.
    Lost,
    /// The client takes nothing of what it is sent.
    Stalled,
    /// The gateway ends it, and says why where the version has words for it.
    Told(DisconnectReason, Cow<'static, str>),
}

impl End {
    fn told(reason: DisconnectReason, text: &'static str) -> Self {
        Self::Told(reason, Cow::Borrowed(text))
    }

    /// The reason as a metric label.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Left => "left".to_owned(),
            Self::Lost => "lost".to_owned(),
            Self::Stalled => "stalled".to_owned(),
            Self::Told(reason, _) => format!("{reason:?}"),
        }
    }
}

impl From<Denied> for End {
    fn from(denied: Denied) -> Self {
        let reason = match denied {
            Denied::Suspended | Denied::Retired => DisconnectReason::Administrative,
            Denied::Unregistered | Denied::Certificate | Denied::Revoked => DisconnectReason::NotAuthorized,
        };
        Self::Told(reason, denied.to_string().into())
    }
}

impl From<Closing> for End {
    fn from(closing: Closing) -> Self {
        match closing {
            Closing::TakenOver => {
                let text = "another connection came with this certificate and client id";
                Self::told(DisconnectReason::TakenOver, text)
            }
            Closing::Denied(denied) => denied.into(),
            Closing::ShuttingDown => {
                Self::told(DisconnectReason::ShuttingDown, "the gateway stops: connect again")
            }
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::Malformed(_) | Refusal::NotMqtt => DisconnectReason::Malformed,
            Refusal::Protocol(_) | Refusal::Version(_) => DisconnectReason::Protocol,
            Refusal::TooLarge { .. } => DisconnectReason::TooLarge,
        };
        Self::Told(reason, refusal.to_string().into())
    }
}

/// A PUBLISH whose records have not all been handed on.
#[derive(Debug)]
struct Pending {
    records: VecDeque<Record>,
    last: Promise,
}

/// A connection between CONNACK and its end.
pub(crate) struct Session<S> {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) identity: Identity,
    pub(crate) wire: Wire<S>,
    pub(crate) encoder: Encoder,
    decoder: Decoder,
    window: Arc<Window>,
    device: Arc<Device>,
    generation: u64,
    /// What Sparkplug births have declared on this connection.
    births: Births,
    pending: Option<Pending>,
    share: Share,
    rate: Rate,
    keep_alive: Option<Duration>,
    heard_at: Instant,
    frame_since: Option<Instant>,
    stalled_since: Option<Instant>,
    retry_at: Option<Instant>,
    deadline: Deadline,
}

/// What a connection has agreed on.
pub(crate) struct Admitted {
    pub(crate) identity: Identity,
    pub(crate) device: Arc<Device>,
    /// The registry's generation from before the look-up of `device`.
    pub(crate) generation: u64,
    pub(crate) encoder: Encoder,
    pub(crate) keep_alive_s: u16,
    pub(crate) window: Arc<Window>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(gateway: Arc<Gateway>, admitted: Admitted, decoder: Decoder, wire: Wire<S>) -> Self {
        let Admitted { identity, device, generation, encoder, keep_alive_s, window } = admitted;
        Self {
            rate: gateway.rates.of(&identity.sensor_id),
            gateway,
            identity,
            wire,
            encoder,
            decoder,
            window,
            device,
            generation,
            births: Births::default(),
            pending: None,
            share: Share::default(),
            // One and a half times what the client promised (MQTT-3.1.2-22).
            keep_alive: (keep_alive_s > 0).then(|| Duration::from_millis(1_500) * u32::from(keep_alive_s)),
            heard_at: Instant::now(),
            frame_since: None,
            stalled_since: None,
            retry_at: None,
            deadline: Deadline::default(),
        }
    }

    /// Ready when the session has ended.
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Does all that can be done now; whatever it then waits for wakes the task.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.window.watch(cx.waker());
        loop {
            self.acknowledge()?;
            self.obey()?;
            let can_read = self.advance(cx)?;
            self.send(cx)?;
            if !can_read || !self.fill(cx)? {
                break;
            }
        }
        self.check_deadlines(cx)
    }

    /// Writes the acknowledgements whose turn has come. After a failure nothing more is acknowledged.
    fn acknowledge(&mut self) -> Result<(), End> {
        let Self { window, wire, encoder, gateway, .. } = self;
        let mut has_failed = false;
        window.take_done(|done| match (done.promise, done.outcome) {
            _ if has_failed => {}
            (Promise::Nothing, _) | (Promise::Part, Outcome::Stored | Outcome::NotAuthorized) => {}
            (Promise::Ack(packet_id), Outcome::Stored) => {
                encoder.puback(packet_id, PubAckReason::Success, "", &mut wire.output);
                gateway.metrics.acknowledgements.inc();
                gateway.metrics.ack_seconds.observe(done.took.as_secs_f64());
            }
            (Promise::Ack(packet_id), Outcome::NotAuthorized) => {
                encoder.puback(packet_id, PubAckReason::NotAuthorized, OWN_TOPIC_ONLY, &mut wire.output);
            }
            (Promise::Part | Promise::Ack(_), Outcome::Failed) => has_failed = true,
        });
        if has_failed { Err(End::told(DisconnectReason::Busy, NOT_STORED)) } else { Ok(()) }
    }

    fn obey(&self) -> Result<(), End> {
        let (closing, is_draining) = self.window.asked();
        if let Some(closing) = closing {
            return Err(closing.into());
        }
        if is_draining && self.pending.is_none() && self.window.load().records == 0 {
            return Err(Closing::ShuttingDown.into());
        }
        Ok(())
    }

    /// Handles what has been read, as far as there is room; says whether more may be read.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let (_, is_draining) = self.window.asked();
        loop {
            if self.submit(cx)?.is_pending() || is_draining {
                return Ok(false);
            }
            if self.wire.output.len() > OUTPUT_BYTES_MAX {
                self.send(cx)?;
                if self.wire.output.len() > OUTPUT_BYTES_MAX {
                    return Ok(false);
                }
            }
            let Some(packet) = self.decoder.decode(&mut self.wire.input)? else { break };
            self.heard_at = Instant::now();
            self.frame_since = None;
            self.on_packet(packet)?;
        }
        self.wire.trim();
        if self.wire.input.is_empty() {
            return Ok(true);
        }
        self.frame_since.get_or_insert_with(Instant::now);
        match self.decoder.frame_bytes(&self.wire.input) {
            // Twice: the frame, and the event that it becomes while the frame is still there.
            Some(bytes) if bytes > FREE_FRAME_BYTES_MAX => {
                let has_waited = self.share.is_waiting();
                let is_ready = self.poll_share(cx, 2 * bytes + RECORD_OVERHEAD_BYTES).is_ready();
                if has_waited && is_ready {
                    // Nothing was read meanwhile: the clocks start again.
                    (self.frame_since, self.heard_at) = (Some(Instant::now()), Instant::now());
                }
                Ok(is_ready)
            }
            _ => Ok(true),
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish)?,
            Packet::Subscribe { packet_id, filters, has_identifier } => {
                let reasons: Vec<_> =
                    filters.iter().map(|filter| self.answer_filter(filter, has_identifier)).collect();
                self.encoder.suback(packet_id, &reasons, &mut self.wire.output);
            }
            Packet::Unsubscribe { packet_id, filters } => {
                self.encoder.unsuback(packet_id, filters.len(), &mut self.wire.output);
            }
            Packet::PingReq => self.encoder.pingresp(&mut self.wire.output),
            Packet::Disconnect => return Err(End::Left),
            Packet::Connect(_) => return Err(End::told(DisconnectReason::Protocol, "a second CONNECT")),
        }
        Ok(())
    }

    /// A granted filter never delivers anything yet; it lets a firmware that waits for commands start.
    fn answer_filter(&self, filter: &str, has_identifier: bool) -> SubAckReason {
        if has_identifier {
            SubAckReason::Identifier
        } else if filter.starts_with("$share/") {
            SubAckReason::Shared
        } else if topic::may_subscribe(&self.identity.sensor_id, filter) {
            SubAckReason::Granted
        } else {
            SubAckReason::NotAuthorized
        }
    }

    fn on_publish(&mut self, publish: Publish) -> Result<(), End> {
        self.gateway.metrics.publishes.with_label_values(&[qos_label(publish.qos)]).inc();
        self.check_offer(&publish)?;
        let generation = self.gateway.registry.generation();
        if generation != self.generation {
            self.device = self.gateway.registry.lookup(&self.identity)?;
            self.generation = generation;
        }
        if !topic::may_publish(&self.identity.sensor_id, &publish.mqtt_topic) {
            return match (self.encoder.version(), publish.qos) {
                (Version::V5, Qos::AtLeastOnce) => {
                    self.window.refuse(publish.packet_id);
                    self.acknowledge()
                }
                _ => Err(End::told(DisconnectReason::NotAuthorized, OWN_TOPIC_ONLY)),
            };
        }
        let last = match publish.qos {
            Qos::AtMostOnce => Promise::Nothing,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Promise::Ack(publish.packet_id),
        };
        let wait = self.rate.take(self.heard_at);
        let records = self.records(publish);
        if let (true, Promise::Ack(packet_id)) = (records.is_empty(), last) {
            // Nothing waits for a turn here; what it took off the rate, the next message waits for.
            self.window.settle(packet_id);
            return self.acknowledge();
        }
        self.pending = Some(Pending { records, last });
        if let Some(wait) = wait {
            self.gateway.metrics.read_pauses.with_label_values(&["rate"]).inc();
            self.retry_at = Some(self.heard_at + wait);
        }
        Ok(())
    }

    /// Holds a PUBLISH against what CONNACK announced. 3.1.1 has no such words: there retain is ignored and QoS 2 ends the
    /// connection, without a PUBREC that would promise what is not kept.
    fn check_offer(&self, publish: &Publish) -> Result<(), End> {
        let is_v5 = self.encoder.version() == Version::V5;
        if publish.qos == Qos::ExactlyOnce {
            let text = "QoS 2 is not offered: publish at QoS 1, with a timestamp or event-id so that a resend is recognised";
            return Err(End::told(DisconnectReason::Qos, text));
        }
        if publish.retain && is_v5 {
            let text = "messages are not retained: publish without the retain flag";
            return Err(End::told(DisconnectReason::Retain, text));
        }
        if publish.topic_alias.is_some() {
            return Err(End::told(DisconnectReason::TopicAlias, "topic aliases are not offered"));
        }
        let is_owed = publish.qos == Qos::AtLeastOnce;
        if is_v5 && is_owed && self.window.load().owed >= usize::from(self.gateway.limits.in_flight_max) {
            return Err(End::told(
                DisconnectReason::ReceiveMaximum,
                "more PUBLISH packets without their PUBACK than the receive maximum of the CONNACK",
            ));
        }
        Ok(())
    }

    /// The readings of a message, or the one dead letter that stands for it; nothing, if it was understood and measures
    /// nothing.
    fn records(&mut self, publish: Publish) -> VecDeque<Record> {
        let received_at = Timestamp::now();
        let message = Message {
            sensor_id: &self.identity.sensor_id,
            device_type: &self.device.device_type,
            zone_id: &self.device.zone_id,
            subtopic: topic::below_readings(&self.identity.sensor_id, &publish.mqtt_topic),
            event_id: publish.event_id.as_deref(),
            received_at,
            payload: &publish.payload,
        };
        let events =
            decode::decode(&self.device.format, &message, &mut self.births, &self.gateway.timestamps)
                .and_then(|readings| readings.iter().map(encode).collect::<Result<VecDeque<_>, _>>());
        events.unwrap_or_else(|undecodable| {
            self.gateway.metrics.dead_letters.with_label_values(&[undecodable.reason()]).inc();
            VecDeque::from([Record::DeadLetter(Box::new(DeadLetter {
                reason: undecodable.reason(),
                detail: undecodable.to_string(),
                codec: self.device.codec.clone(),
                mqtt_topic: publish.mqtt_topic,
                received_at,
                payload: publish.payload,
            }))])
        })
    }

    /// Hands the pending records on, one after the other. Pending when there is no room for the next.
    fn submit(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let Some(mut pending) = self.pending.take() else { return Ok(Poll::Ready(())) };
        while let Some(record) = pending.records.pop_front() {
            let promise = match pending.last {
                Promise::Ack(_) if !pending.records.is_empty() => Promise::Part,
                last => last,
            };
            if let Some(record) = self.hand_on(cx, record, promise)? {
                pending.records.push_front(record);
                self.pending = Some(pending);
                return Ok(Poll::Pending);
            }
        }
        self.heard_at = Instant::now();
        Ok(Poll::Ready(()))
    }

    /// Hands one record on, or gives it back when there is no room for it.
    fn hand_on(
        &mut self,
        cx: &mut Context<'_>,
        record: Record,
        promise: Promise,
    ) -> Result<Option<Record>, End> {
        let bytes = record.bytes() + RECORD_OVERHEAD_BYTES;
        let (load, limits) = (self.window.load(), &self.gateway.limits);
        let has_room = load.records < usize::from(limits.in_flight_max)
            && load.bytes + bytes <= limits.in_flight_bytes_max;
        if !has_room && load.records > 0 {
            self.gateway.metrics.read_pauses.with_label_values(&["window"]).inc();
            return Ok(Some(record));
        }
        if self.retry_at.is_some() || self.poll_share(cx, bytes).is_pending() {
            return Ok(Some(record));
        }
        let Some(permit) = self.share.take() else { return Ok(Some(record)) };
        let slot = self.window.open(promise, bytes, permit);
        match self.gateway.publisher.produce(&self.identity.sensor_id, &record, slot) {
            Ok(()) => Ok(None),
            Err(NotTaken::Full(slot)) => {
                self.gateway.metrics.read_pauses.with_label_values(&["queue"]).inc();
                self.share = Share::from(self.window.withdraw(slot));
                self.retry_at = Some(Instant::now() + RETRY_WAIT);
                Ok(Some(record))
            }
            Err(NotTaken::Broken) => Err(End::told(DisconnectReason::Busy, NOT_STORED)),
        }
    }

    fn poll_share(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        self.share.poll(cx, &self.gateway.budget, bytes, || {
            self.gateway.metrics.read_pauses.with_label_values(&["budget"]).inc();
        })
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let before = self.wire.output.len();
        match self.wire.poll_send(cx) {
            Poll::Ready(Ok(())) => self.stalled_since = None,
            Poll::Ready(Err(_)) => return Err(End::Lost),
            Poll::Pending if self.wire.output.len() < before => self.stalled_since = Some(Instant::now()),
            Poll::Pending => {
                self.stalled_since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Reads a chunk; false when there is none yet.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.wire.poll_fill(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => Ok(true),
            Poll::Ready(Ok(0) | Err(_)) => Err(End::Lost),
        }
    }

    /// Ends the session when a deadline has passed, else has the task woken for the next one. While the gateway itself does not
    /// read, it does not hold the client's silence against it.
    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let is_reading = self.pending.is_none() && !self.share.is_waiting();
        let silence = self.keep_alive.filter(|_| is_reading).map(|keep_alive| self.heard_at + keep_alive);
        let frame = self.frame_since.filter(|_| is_reading).map(|since| since + self.frame_time_max());
        let stall = self.stalled_since.map(|since| since + STALL_TIME_MAX);
        let next = [silence, frame, stall, self.retry_at].into_iter().flatten().min();
        if self.deadline.poll(cx, next).is_pending() {
            return Ok(());
        }
        if next == self.retry_at {
            self.retry_at = None;
            cx.waker().wake_by_ref();
            Ok(())
        } else if next == stall {
            Err(End::Stalled)
        } else if next == frame {
            Err(End::told(
                DisconnectReason::FrameTime,
                "a packet was not complete in time: 10 s and one for every 8 KiB",
            ))
        } else {
            Err(End::told(
                DisconnectReason::KeepAlive,
                "nothing came for one and a half times the keep-alive: send PINGREQ in time",
            ))
        }
    }

    /// How long the frame that is under way may take.
    fn frame_time_max(&self) -> Duration {
        let bytes = self.decoder.frame_bytes(&self.wire.input).unwrap_or_default();
        FRAME_TIME_BASE + Duration::from_secs((bytes / FRAME_BYTES_PER_S_MIN) as u64)
    }

    /// Writes the last words and closes; the socket takes them now or never.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.poll_send(cx))?;
        self.wire.poll_end(cx)
    }
}

/// The record that a reading becomes.
pub(crate) fn encode(reading: &schema::ReadingCreatedEvent) -> Result<Record, Undecodable> {
    match serde_json::to_vec(reading) {
        Ok(event) if event.len() <= EVENT_BYTES_MAX => Ok(Record::Reading(event)),
        // A reading is plain data under text keys, which always encodes; if not, its size is not the reason to lose it.
        Ok(_) | Err(_) => Err(Undecodable::EventTooLarge),
    }
}

fn qos_label(qos: Qos) -> &'static str {
    match qos {
        Qos::AtMostOnce => "0",
        Qos::AtLeastOnce => "1",
        Qos::ExactlyOnce => "2",
    }
}

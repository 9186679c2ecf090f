//! One connection after its CONNECT: packets in, records out, acknowledgements back.
//!
//! One task, no channels. A step takes what is completed from the window, hands on what has been read,
//! writes, and reads more; when a message finds no room (in the window, in the budgets, or in the producer's
//! queue), or the device has overdrawn its account, nothing more is read from the socket until it may be, so
//! backpressure reaches the device. A client that keeps to its Receive Maximum is still read, and its PINGREQ
//! answered, while all its messages wait for Kafka; one that does not is not cut off.

mod clocks;
mod end;
mod publish;

use crate::decode::Births;
use crate::device::account::{self, Connected};
use crate::device::connections::{Closing, Link};
use crate::device::identity::Identity;
use crate::device::registry::Device;
use crate::durable::budget::PermitRequest;
use crate::durable::in_flight::{AckKind, InFlight, Outcome, RECORD_OVERHEAD_BYTES};
use crate::gateway::Gateway;
use crate::mqtt::packet::{Decoder, DisconnectReason, Encoder, Packet, PubAckReason, SubAckReason, topic};
use crate::mqtt::wire::Wire;
use clocks::{Clocks, Due};
pub(crate) use end::End;
use publish::Pending;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// A frame up to this size is read without asking the budget; a larger one gets its share before the rest is
/// read.
const FREE_FRAME_BYTES_MAX: usize = 16 * 1024;
/// With more output than this, nothing is read: the client asks faster than it listens.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// What a device is told that publishes elsewhere.
const OWN_TOPIC_ONLY: &str =
    "publish to devices/<your sensor id>/readings or below it only; the sensor id is your certificate's CN";
/// Words for a device whose messages were not acknowledged.
const NOT_STORED: &str = "not stored: connect again and publish again what has no PUBACK";

/// A connection between CONNACK and its end.
pub(crate) struct Session<S> {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) identity: Identity,
    pub(crate) wire: Wire<S>,
    pub(crate) encoder: Encoder,
    decoder: Decoder,
    link: Arc<Link>,
    in_flight: Arc<InFlight>,
    device: Arc<Device>,
    generation: u64,
    /// What Sparkplug births have declared on this connection.
    births: Births,
    pending: Option<Pending>,
    permit: PermitRequest,
    /// The device's account, and this connection's place in it.
    connected: Connected,
    clocks: Clocks,
}

/// What a connection has agreed on.
pub(crate) struct Admitted {
    pub(crate) identity: Identity,
    pub(crate) device: Arc<Device>,
    /// The registry's generation from before the look-up of `device`.
    pub(crate) generation: u64,
    pub(crate) encoder: Encoder,
    pub(crate) keep_alive_s: u16,
    pub(crate) link: Arc<Link>,
    pub(crate) connected: Connected,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(gateway: Arc<Gateway>, admitted: Admitted, decoder: Decoder, wire: Wire<S>) -> Self {
        let Admitted { identity, device, generation, encoder, keep_alive_s, link, connected } = admitted;
        let mut clocks = Clocks::start(keep_alive_s);
        clocks.retry_at = connected.account().wait(clocks.now).map(|wait| clocks.now + wait);
        Self {
            connected,
            gateway,
            identity,
            wire,
            encoder,
            decoder,
            in_flight: link.in_flight().clone(),
            link,
            device,
            generation,
            births: Births::default(),
            pending: None,
            permit: PermitRequest::default(),
            clocks,
        }
    }

    /// Polls the session: ready when it has ended.
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.step(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Does all that can be done now; whatever it then waits for wakes the task.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.in_flight.watch(cx.waker());
        self.clocks.now = Instant::now();
        loop {
            self.acknowledge()?;
            let is_draining = self.check_stop()?;
            let can_read = self.advance(cx, is_draining)?;
            self.send(cx)?;
            if !can_read || !self.fill(cx)? {
                break;
            }
        }
        self.check_deadlines(cx)
    }

    /// Writes the acknowledgements whose turn has come. After a failure nothing more is acknowledged.
    fn acknowledge(&mut self) -> Result<(), End> {
        let Self { in_flight, wire, encoder, gateway, .. } = self;
        let (mut has_failed, mut acknowledged) = (false, 0);
        let mut ack_seconds = None;
        in_flight.take_completed(|done| match (done.kind, done.outcome) {
            _ if has_failed => {}
            (AckKind::Nothing, _) | (AckKind::Part, Outcome::Stored | Outcome::NotAuthorized) => {}
            (AckKind::Ack(packet_id), Outcome::Stored) => {
                encoder.puback(packet_id, PubAckReason::Success, "", &mut wire.output);
                acknowledged += 1;
                // Counted here and added to the histogram together.
                ack_seconds
                    .get_or_insert_with(|| gateway.metrics.ack_seconds.local())
                    .observe(done.took.as_secs_f64());
            }
            (AckKind::Ack(packet_id), Outcome::NotAuthorized) => {
                encoder.puback(packet_id, PubAckReason::NotAuthorized, OWN_TOPIC_ONLY, &mut wire.output);
            }
            (AckKind::Part | AckKind::Ack(_), Outcome::Failed) => has_failed = true,
        });
        if acknowledged > 0 {
            gateway.metrics.acknowledgements.inc_by(acknowledged);
        }
        if has_failed { Err(End::told(DisconnectReason::Busy, NOT_STORED)) } else { Ok(()) }
    }

    /// Ends the session when it was asked to; says whether it is to read nothing more.
    fn check_stop(&self) -> Result<bool, End> {
        let (closing, is_draining) = self.link.asked();
        if let Some(closing) = closing {
            return Err(closing.into());
        }
        if is_draining && self.pending.is_none() && self.in_flight.load().records == 0 {
            return Err(Closing::ShuttingDown.into());
        }
        Ok(is_draining)
    }

    /// Handles what has been read, as far as there is room; says whether more may be read.
    fn advance(&mut self, cx: &mut Context<'_>, is_draining: bool) -> Result<bool, End> {
        loop {
            // The device may have to wait for its account without a message that waits for room.
            if self.submit(cx)?.is_pending() || is_draining || self.clocks.retry_at.is_some() {
                return Ok(false);
            }
            if self.wire.output.len() > OUTPUT_BYTES_MAX {
                self.send(cx)?;
                if self.wire.output.len() > OUTPUT_BYTES_MAX {
                    return Ok(false);
                }
            }
            let Some(packet) = self.decoder.decode(&mut self.wire.input)? else { break };
            self.clocks.heard_at = self.clocks.now;
            self.clocks.frame_since = None;
            self.on_packet(packet)?;
        }
        self.wire.trim();
        if self.wire.input.is_empty() {
            return Ok(true);
        }
        self.clocks.frame_since.get_or_insert(self.clocks.now);
        match self.decoder.frame_bytes(&self.wire.input) {
            // Twice: the frame, and the event that it becomes while the frame is still there.
            Some(bytes) if bytes > FREE_FRAME_BYTES_MAX => {
                let has_waited = self.permit.is_waiting();
                let is_ready = self.poll_permit(cx, 2 * bytes + RECORD_OVERHEAD_BYTES).is_ready();
                if has_waited && is_ready {
                    // Nothing was read meanwhile: the clocks start again.
                    (self.clocks.frame_since, self.clocks.heard_at) =
                        (Some(self.clocks.now), self.clocks.now);
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
                self.charge(cost_of_filters(&filters));
                let reasons: Vec<_> =
                    filters.iter().map(|filter| self.answer_filter(filter, has_identifier)).collect();
                self.encoder.suback(packet_id, &reasons, &mut self.wire.output);
            }
            Packet::Unsubscribe { packet_id, filters } => {
                self.charge(cost_of_filters(&filters));
                self.encoder.unsuback(packet_id, filters.len(), &mut self.wire.output);
            }
            Packet::PingReq => {
                self.charge(1);
                self.encoder.pingresp(&mut self.wire.output);
            }
            Packet::Disconnect => return Err(End::Left),
            Packet::Connect(_) => return Err(End::told(DisconnectReason::Protocol, "a second CONNECT")),
        }
        Ok(())
    }

    /// Charges the device, which is not read while its account is overdrawn.
    fn charge(&mut self, cost: u64) {
        if let Some(wait) = self.connected.account().charge(cost, self.clocks.heard_at) {
            self.gateway.metrics.read_pauses.with_label_values(&["rate"]).inc();
            self.clocks.retry_at = Some(self.clocks.heard_at + wait);
        }
    }

    /// Answers a filter. A granted one never delivers anything yet; it lets a firmware that waits for
    /// commands start.
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

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let before = self.wire.output.len();
        match self.wire.poll_send(cx) {
            Poll::Ready(Ok(())) => self.clocks.stalled_since = None,
            Poll::Ready(Err(_)) => return Err(End::Lost),
            Poll::Pending if self.wire.output.len() < before => {
                self.clocks.stalled_since = Some(Instant::now());
            }
            Poll::Pending => {
                self.clocks.stalled_since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Reads a chunk; false when there is none yet.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.wire.poll_fill(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(1..)) => {
                self.clocks.now = Instant::now();
                Ok(true)
            }
            Poll::Ready(Ok(0) | Err(_)) => Err(End::Lost),
        }
    }

    /// Ends the session when a deadline has passed, else has the task woken for the next one.
    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let is_reading =
            self.pending.is_none() && !self.permit.is_waiting() && self.clocks.retry_at.is_none();
        let frame_bytes = self.decoder.frame_bytes(&self.wire.input).unwrap_or_default();
        let (reason, text) = match self.clocks.poll(cx, is_reading, frame_bytes) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Due::Retry) => {
                self.clocks.reads_again();
                cx.waker().wake_by_ref();
                return Ok(());
            }
            Poll::Ready(Due::Stall) => return Err(End::Stalled),
            Poll::Ready(Due::Frame) => (
                DisconnectReason::FrameTime,
                "a packet was not complete in time: 10 s and one for every 8 KiB",
            ),
            Poll::Ready(Due::Silence) => (
                DisconnectReason::KeepAlive,
                "nothing came for one and a half times the keep-alive: send PINGREQ in time",
            ),
        };
        Err(End::told(reason, text))
    }

    /// Writes the last words and closes; the socket takes them now or never.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.poll_send(cx))?;
        self.wire.poll_end(cx)
    }
}

/// Counts what filters cost: each is looked at, kept for a moment and answered.
fn cost_of_filters(filters: &[String]) -> u64 {
    account::cost(filters.len(), filters.iter().map(String::len).sum())
}

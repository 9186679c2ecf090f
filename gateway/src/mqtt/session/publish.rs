//! A PUBLISH: checked against what was agreed, decoded, and handed on as far as there is room.

use super::{End, NOT_STORED, OWN_TOPIC_ONLY, Session};
use crate::device::account;
use crate::durable::budget::PermitRequest;
use crate::durable::in_flight::{AckKind, Outcome};
use crate::durable::record::{NotTaken, Record};
use crate::ingest::{self, Encoded, Payload, Sender};
use crate::mqtt::packet::{DisconnectReason, Publish, Qos, Version, topic};
use schema::Timestamp;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// A PUBLISH whose records have not all been handed on, or whose answer has not found its place among the
/// others.
#[derive(Debug)]
pub(super) struct Pending {
    records: VecDeque<Record>,
    /// What the client is owed with the last record.
    last: AckKind,
    /// What the client is owed without any record.
    answer: Option<(u16, Outcome)>,
}

impl Pending {
    fn of_records(records: VecDeque<Record>, last: AckKind) -> Self {
        let answer = match last {
            // Understood, and nothing is measured.
            AckKind::Ack(packet_id) if records.is_empty() => Some((packet_id, Outcome::Stored)),
            _ => None,
        };
        Self { records, last, answer }
    }

    fn refused(packet_id: u16) -> Self {
        let answer = Some((packet_id, Outcome::NotAuthorized));
        Self { records: VecDeque::new(), last: AckKind::Nothing, answer }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) fn on_publish(&mut self, publish: Publish) -> Result<(), End> {
        self.gateway.metrics.publishes.of(publish.qos as usize).inc();
        self.check_offer(&publish)?;
        let generation = self.gateway.registry.generation();
        if generation != self.generation {
            self.device = self.gateway.registry.lookup(&self.identity)?;
            self.generation = generation;
        }
        if !topic::may_publish(&self.identity.sensor_id, &publish.mqtt_topic) {
            return match (self.encoder.version(), publish.qos) {
                (Version::V5, Qos::AtLeastOnce) => {
                    self.charge(account::cost(1, publish.payload.len()));
                    self.pending = Some(Pending::refused(publish.packet_id));
                    Ok(())
                }
                _ => Err(End::told(DisconnectReason::NotAuthorized, OWN_TOPIC_ONLY)),
            };
        }
        let last = match publish.qos {
            Qos::AtMostOnce => AckKind::Nothing,
            Qos::AtLeastOnce | Qos::ExactlyOnce => AckKind::Ack(publish.packet_id),
        };
        let records = self.records(publish);
        self.pending = Some(Pending::of_records(records, last));
        Ok(())
    }

    /// Holds a PUBLISH against what CONNACK announced. 3.1.1 has no such words: there retain is ignored and
    /// QoS 2 ends the connection, without a PUBREC that would promise what is not kept.
    fn check_offer(&self, publish: &Publish) -> Result<(), End> {
        let is_v5 = self.encoder.version() == Version::V5;
        if publish.qos == Qos::ExactlyOnce {
            let text =
                "QoS 2 is not offered: publish at QoS 1, with a timestamp so that a resend is recognised";
            return Err(End::told(DisconnectReason::Qos, text));
        }
        if publish.retain && is_v5 {
            let text = "messages are not retained: publish without the retain flag";
            return Err(End::told(DisconnectReason::Retain, text));
        }
        if publish.topic_alias.is_some() {
            return Err(End::told(DisconnectReason::TopicAlias, "topic aliases are not offered"));
        }
        Ok(())
    }

    /// Returns the readings of a message, or the one dead letter that stands for it; nothing, if it was
    /// understood and measures nothing. The device is charged for any of them.
    fn records(&mut self, publish: Publish) -> VecDeque<Record> {
        let sender = Sender {
            sensor_id: &self.identity.sensor_id,
            device: &self.device,
            received_at: Timestamp::now(),
        };
        let payload = Payload {
            format: &self.device.format,
            subtopic: topic::below_readings(&self.identity.sensor_id, &publish.mqtt_topic),
            event_id: publish.event_id.as_deref(),
            bytes: &publish.payload,
        };
        let bytes = publish.payload.len();
        let decoded = sender.decode(&payload, &mut self.births, &self.gateway.timestamps);
        let (records, cost) = match decoded.and_then(|readings| Encoded::of(&readings)) {
            Ok(Encoded { records, row_bytes }) => {
                let cost = account::cost_of_rows(records.len(), bytes, row_bytes);
                (records, cost)
            }
            Err(why) => {
                self.gateway.metrics.dead_letters.with_label_values(&[why.reason()]).inc();
                let letter = sender.dead_letter(&why, publish.mqtt_topic, publish.payload);
                (VecDeque::from([letter]), account::cost_of_undecodable(bytes))
            }
        };
        self.charge(cost);
        records
    }

    /// Hands the pending records on, one after the other. Pending when there is no room for the next.
    pub(super) fn submit(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let Some(mut pending) = self.pending.take() else { return Ok(Poll::Ready(())) };
        while let Some(record) = pending.records.pop_front() {
            let kind = match pending.last {
                AckKind::Ack(_) if !pending.records.is_empty() => AckKind::Part,
                last => last,
            };
            if let Some(record) = self.hand_on(cx, record, kind)? {
                pending.records.push_front(record);
                self.pending = Some(pending);
                return Ok(Poll::Pending);
            }
        }
        if let Some((packet_id, outcome)) = pending.answer {
            if self.clocks.retry_at.is_some() || !self.has_room(0) {
                self.pending = Some(pending);
                return Ok(Poll::Pending);
            }
            self.in_flight.ack_without_record(packet_id, outcome);
            self.acknowledge()?;
        }
        // Nothing was read meanwhile, if there was a wait: the clock starts again.
        self.clocks.heard_at = self.clocks.now;
        Ok(Poll::Ready(()))
    }

    /// Tells whether there is room for one more message, of `bytes` with all that it costs. An empty one
    /// takes any.
    fn has_room(&self, bytes: usize) -> bool {
        let (load, limits) = (self.in_flight.load(), &self.gateway.limits);
        let has_room = load.records == 0
            || load.records < usize::from(limits.in_flight_max)
                && load.bytes + bytes <= limits.in_flight_bytes_max;
        if !has_room {
            self.gateway.metrics.read_pauses.with_label_values(&["window"]).inc();
        }
        has_room
    }

    /// Hands one record on, or gives it back when there is no room for it.
    fn hand_on(
        &mut self,
        cx: &mut Context<'_>,
        record: Record,
        kind: AckKind,
    ) -> Result<Option<Record>, End> {
        let bytes = ingest::in_flight_bytes(&record);
        if !self.has_room(bytes) {
            return Ok(Some(record));
        }
        if self.clocks.retry_at.is_some() || self.poll_permit(cx, bytes).is_pending() {
            return Ok(Some(record));
        }
        let Some(permit) = self.permit.take() else { return Ok(Some(record)) };
        let handle = self.in_flight.open(kind, bytes, permit);
        match self.gateway.producer.produce(&self.identity.sensor_id, &record, handle) {
            Ok(()) => {
                self.clocks.was_taken();
                Ok(None)
            }
            Err(NotTaken::Full(handle)) => {
                self.gateway.metrics.read_pauses.with_label_values(&["queue"]).inc();
                self.permit = PermitRequest::from(self.in_flight.withdraw(handle));
                self.clocks.was_full(Instant::now());
                Ok(Some(record))
            }
            Err(NotTaken::Broken) => Err(End::told(DisconnectReason::Busy, NOT_STORED)),
        }
    }

    pub(super) fn poll_permit(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        self.permit.poll(cx, self.connected.account().budget(), bytes, |full| {
            self.gateway.metrics.read_pauses.with_label_values(&[full.label()]).inc();
        })
    }
}

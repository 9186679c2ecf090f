//! The body of a request: read into room that is taken as its bytes arrive, or let go by after a refusal.

use crate::device::account::{self, Account};
use crate::durable::budget::{Full, Permit};
use crate::gateway::Gateway;
use chassis::problem::Problem;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Time that a body may take, and one second more for every [`BYTES_PER_S_MIN`], as an MQTT packet may.
const TIME_BASE: Duration = Duration::from_secs(10);
/// Speed of the slowest line; a device on it is faster than this.
const BYTES_PER_S_MIN: usize = 8 * 1024;
/// Room that a body takes with its first byte; it doubles whenever it is full.
const ROOM_BYTES_MIN: usize = 16 * 1024;
/// Bodies of the largest size that are let go by after a refusal, so that a client which writes all of its
/// body before it reads hears of the refusal. A larger one is cut off.
const BODIES_LET_BY_MAX: usize = 16;

/// A body that nobody may have asked for yet: with `Expect: 100-continue`, its first read is what asks the
/// client for it.
pub(super) struct Body {
    incoming: Incoming,
    is_expected: bool,
    is_asked_for: bool,
}

/// What was read, and the room that it takes.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) room: Option<Permit>,
}

impl Body {
    pub(super) fn new(head: &Parts, incoming: Incoming) -> Self {
        let expects = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        let is_expected = head.headers.get(EXPECT).is_some_and(|value| expects(value.as_bytes()));
        Self { incoming, is_expected, is_asked_for: false }
    }

    /// Reads all of it. What its length announces takes no room: nobody has sent it yet.
    pub(super) async fn read(&mut self, gateway: &Gateway, account: &Account) -> Result<Received, Problem> {
        let bytes_max = gateway.limits.http_body_bytes_max;
        let upper = self.incoming.size_hint().upper();
        let announced = upper.map_or(bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if announced > bytes_max {
            return Err(too_large(bytes_max));
        }
        self.is_asked_for = true;
        let time_max = TIME_BASE + Duration::from_secs((announced / BYTES_PER_S_MIN) as u64);
        match timeout(time_max, self.collect(gateway, account, announced)).await {
            Ok(received) => received,
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        }
    }

    async fn collect(
        &mut self,
        gateway: &Gateway,
        account: &Account,
        bytes_max: usize,
    ) -> Result<Received, Problem> {
        let mut received = Received { bytes: Vec::new(), room: None };
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body ends early"))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = received.bytes.len() + data.len();
            if needed > bytes_max {
                return Err(too_large(bytes_max));
            }
            let held = received.room.as_ref().map_or(0, Permit::bytes);
            if needed > held {
                let wanted = needed.next_power_of_two().max(ROOM_BYTES_MIN).min(bytes_max);
                grow(gateway, account, &mut received.room, wanted)?;
                received.bytes.reserve_exact(wanted - received.bytes.len());
            }
            received.bytes.extend_from_slice(&data);
        }
        Ok(received)
    }

    /// Reads on after a refusal and keeps nothing, beside the answer: a client that is still writing would
    /// lose the answer with its connection. The device is charged for it, when it is known.
    pub(super) fn let_by(self, gateway: &Gateway, account: Option<Account>) {
        let Self { mut incoming, is_expected, is_asked_for } = self;
        // Nobody writes what was not asked for, and to read it now would ask.
        if incoming.is_end_stream() || (is_expected && !is_asked_for) {
            return;
        }
        let bodies = if account.is_some() { BODIES_LET_BY_MAX } else { 1 };
        let mut left = bodies * gateway.limits.http_body_bytes_max;
        let rest = async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if let Some(account) = &account {
                    // It is written down; whether the device must wait is for its next request to ask.
                    let _ = account.charge(account::cost(1, data.len()), Instant::now());
                }
                match left.checked_sub(data.len()) {
                    Some(fewer) => left = fewer,
                    None => return,
                }
            }
        };
        // It ends with its connection, and a slow one in time.
        tokio::spawn(timeout(TIME_BASE, rest));
    }
}

/// Has a request hold room for `bytes` in all.
pub(super) fn grow(
    gateway: &Gateway,
    account: &Account,
    room: &mut Option<Permit>,
    bytes: usize,
) -> Result<(), Problem> {
    let missing = bytes.saturating_sub(room.as_ref().map_or(0, Permit::bytes));
    let more = account.budget().try_take(missing).map_err(|full| {
        gateway.metrics.read_pauses.with_label_values(&[full.label()]).inc();
        match full {
            Full::All => {
                Problem::busy("as much is in flight as may be; nothing was stored", super::RETRY_SOON)
            }
            Full::Device => {
                let detail = "the device has as much in flight as it may; nothing was stored";
                Problem::too_many(detail, super::RETRY_SOON)
            }
        }
    })?;
    match room {
        Some(room) => room.merge(more),
        None => *room = Some(more),
    }
    Ok(())
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body is larger than {bytes_max} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

//! What a session waits for by the clock: word from the client, the rest of a frame, room in the socket,
//! another try.

use crate::deadline::Deadline;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Time after which a client that takes none of its output counts as gone.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for a frame, with one second more for every [`FRAME_BYTES_PER_S_MIN`]: it may hold a share of
/// the budget of all connections meanwhile, and the largest frame of a 64 kbit/s line is there after 32 s.
const FRAME_TIME_BASE: Duration = Duration::from_secs(10);
/// A sensor on the slowest line that carries MQTT is faster than this; one that dribbles its frame on purpose
/// is not.
const FRAME_BYTES_PER_S_MIN: usize = 8 * 1024;

/// Wait before a full producer queue or spool is tried again; each further wait is twice as long, so that
/// twenty thousand connections do not keep asking a Kafka or a disk that is in trouble.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(5);
/// Longest of these waits.
const RETRY_WAIT_MAX: Duration = Duration::from_millis(250);

/// The clocks of one session.
pub(super) struct Clocks {
    keep_alive: Option<Duration>,
    /// When the session was woken, or read last: near enough for all that is counted in milliseconds, and
    /// asked once for many packets.
    pub(super) now: Instant,
    /// When the client was heard of last, or the gateway began to read again.
    pub(super) heard_at: Instant,
    /// Since when a frame is under way.
    pub(super) frame_since: Option<Instant>,
    /// Since when the socket takes no output.
    pub(super) stalled_since: Option<Instant>,
    /// When what found no room is tried again.
    pub(super) retry_at: Option<Instant>,
    /// The wait after the next refusal.
    retry_wait: Duration,
    deadline: Deadline,
}

/// The deadline that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Something that had to wait is tried again.
    Retry,
    /// The client takes nothing of what it is sent.
    Stall,
    /// A frame took too long.
    Frame,
    /// The client was silent for longer than its keep-alive allows.
    Silence,
}

impl Clocks {
    /// Starts them; a keep-alive of 0 is no promise.
    pub(super) fn start(keep_alive_s: u16) -> Self {
        let now = Instant::now();
        Self {
            // One and a half times what the client promised (MQTT-3.1.2-22).
            keep_alive: (keep_alive_s > 0).then(|| Duration::from_millis(1_500) * u32::from(keep_alive_s)),
            now,
            heard_at: now,
            frame_since: None,
            stalled_since: None,
            retry_at: None,
            retry_wait: RETRY_WAIT_MIN,
            deadline: Deadline::default(),
        }
    }

    /// A record found no room: it is tried again after a wait that grows from refusal to refusal.
    pub(super) fn was_full(&mut self, now: Instant) {
        self.retry_at = Some(now + self.retry_wait);
        self.retry_wait = (2 * self.retry_wait).min(RETRY_WAIT_MAX);
    }

    /// Nothing was read for a while, and now is: the client's clocks start again.
    pub(super) fn reads_again(&mut self) {
        self.heard_at = Instant::now();
        self.frame_since = None;
    }

    /// A record found room.
    pub(super) fn was_taken(&mut self) {
        self.retry_wait = RETRY_WAIT_MIN;
    }

    /// Ready when somebody's time has come, else the task is woken by then. While the gateway itself does not
    /// read, it does not hold the client's silence against it. `frame_bytes` is the length of the frame that
    /// is under way.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, is_reading: bool, frame_bytes: usize) -> Poll<Due> {
        let frame_time = FRAME_TIME_BASE + Duration::from_secs((frame_bytes / FRAME_BYTES_PER_S_MIN) as u64);
        let silence = self.keep_alive.filter(|_| is_reading).map(|keep_alive| self.heard_at + keep_alive);
        let frame = self.frame_since.filter(|_| is_reading).map(|since| since + frame_time);
        let stall = self.stalled_since.map(|since| since + STALL_TIME_MAX);
        let next = [silence, frame, stall, self.retry_at].into_iter().flatten().min();
        ready!(self.deadline.poll(cx, next));
        if next == self.retry_at {
            self.retry_at = None;
            return Poll::Ready(Due::Retry);
        }
        Poll::Ready(match next {
            _ if next == stall => Due::Stall,
            _ if next == frame => Due::Frame,
            _ => Due::Silence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn full_queue_is_asked_less_and_less_often() {
        let mut clocks = Clocks::start(0);
        let now = Instant::now();
        let mut waits = |count: usize| -> Vec<_> {
            let waits = (0..count).map(|_| {
                clocks.was_full(now);
                clocks.retry_at.unwrap().duration_since(now).as_millis()
            });
            let waits = waits.collect();
            clocks.was_taken();
            waits
        };
        assert_eq!(waits(8), [5, 10, 20, 40, 80, 160, 250, 250]);
        assert_eq!(waits(2), [5, 10], "room ends the waiting");
    }
}

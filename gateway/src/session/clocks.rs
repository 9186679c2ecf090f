//! What a session waits for by the clock: word from the client, the rest of a frame, room in the socket, another try.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;

/// A client that takes none of its output for so long is gone.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// A frame may take so long, and one second more for every [`FRAME_BYTES_PER_S_MIN`]: it may hold a share of the budget of all
/// connections meanwhile, and the largest frame of a 64 kbit/s line is there after 32 s.
const FRAME_TIME_BASE: Duration = Duration::from_secs(10);
/// A sensor on the slowest line that carries MQTT is faster than this; one that dribbles its frame on purpose is not.
const FRAME_BYTES_PER_S_MIN: usize = 8 * 1024;

/// The clocks of one session.
pub(super) struct Clocks {
    keep_alive: Option<Duration>,
    /// When the session was woken, or read last: near enough for all that is counted in milliseconds, and asked once for many
    /// packets.
    pub(super) now: Instant,
    /// When the client was heard of last, or the gateway began to read again.
    pub(super) heard_at: Instant,
    /// Since when a frame is under way.
    pub(super) frame_since: Option<Instant>,
    /// Since when the socket takes no output.
    pub(super) stalled_since: Option<Instant>,
    /// When what found no room is tried again.
    pub(super) retry_at: Option<Instant>,
    deadline: Deadline,
}

/// Whose time has come.
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
            deadline: Deadline::default(),
        }
    }

    /// Ready when somebody's time has come, else the task is woken by then. While the gateway itself does not read, it does not
    /// hold the client's silence against it. `frame_bytes` is the length of the frame that is under way.
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

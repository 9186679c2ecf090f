//! Lines in the log about what peers do, a few of them.
//!
//! Peers decide how often they fail, so each event has one line for each reason and minute, with the number
//! of those in between. The metrics count every one.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Wait between two lines with one reason: rare enough for a flood, often enough for somebody who looks on.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A TLS handshake failed.
    Handshake,
    /// A CONNECT was refused.
    Connect,
    /// The gateway ended a session.
    SessionEnd,
}

/// Decides which events get a line. Reasons come from fixed sets, so that there are few.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    by_reason: Mutex<HashMap<(Event, &'static str), Notice>>,
}

#[derive(Debug)]
struct Notice {
    said_at: Instant,
    /// Events since then.
    unsaid: u64,
}

impl Notices {
    /// Counts one more; when a line is due, returns how many have had none since the last.
    pub(crate) fn due(&self, event: Event, reason: &'static str, now: Instant) -> Option<u64> {
        let mut by_reason = self.by_reason.lock();
        let Some(notice) = by_reason.get_mut(&(event, reason)) else {
            by_reason.insert((event, reason), Notice { said_at: now, unsaid: 0 });
            return Some(0);
        };
        if now.duration_since(notice.said_at) < LINE_INTERVAL {
            notice.unsaid += 1;
            return None;
        }
        notice.said_at = now;
        Some(std::mem::take(&mut notice.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_line_now_and_then_and_counts_those_without() {
        let (notices, start) = (Notices::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(notices.due(Event::Handshake, "not-tls", at(0)), Some(0));
        assert_eq!(notices.due(Event::Handshake, "not-tls", at(1)), None);
        assert_eq!(
            notices.due(Event::Handshake, "tls-expired", at(2)),
            Some(0),
            "another reason has its own"
        );
        assert_eq!(notices.due(Event::Connect, "not-tls", at(2)), Some(0), "and another event");
        assert_eq!(notices.due(Event::Handshake, "not-tls", at(59)), None);
        assert_eq!(notices.due(Event::Handshake, "not-tls", at(60)), Some(2));
        assert_eq!(notices.due(Event::Handshake, "not-tls", at(61)), None);
    }
}

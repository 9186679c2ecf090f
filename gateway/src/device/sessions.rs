//! Who is connected: for take-over, for telling a live connection that its device may not publish any more or
//! that its certificate has ended, and for the drain.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::device::identity::Identity;
use crate::device::registry::Denied;
use crate::durable::window::{Closing, Window};
use crate::gateway::Gateway;

/// How late a connection may end after its certificate.
const EXPIRY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Ends connections as their certificates end; never ends itself. The clock of the host counts, not a timer
/// that was set when the connection began: it may have been wrong then.
pub(crate) async fn end_with_certificates(gateway: &Gateway) {
    loop {
        tokio::time::sleep(EXPIRY_LOOK_INTERVAL).await;
        gateway.sessions.close_expired(SystemTime::now());
    }
}

/// Live connections by sensor id. The client id tells those of one device apart, and never reaches another device's.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<HashMap<Arc<str>, Vec<Session>>>,
}

#[derive(Debug)]
struct Session {
    client_id: Box<str>,
    identity: Identity,
    window: Arc<Window>,
}

impl Sessions {
    /// Adds a connection and closes the one it takes over, if any. It leaves when the guard is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        identity: &Identity,
        client_id: &str,
        window: &Arc<Window>,
    ) -> Entered {
        let mut live = self.live.lock();
        let sessions = live.entry(identity.sensor_id.clone()).or_default();
        sessions.retain(|session| {
            let is_other = *session.client_id != *client_id;
            if !is_other {
                session.window.close(Closing::TakenOver);
            }
            is_other
        });
        sessions.push(Session {
            client_id: client_id.into(),
            identity: identity.clone(),
            window: window.clone(),
        });
        Entered { sessions: self.clone(), sensor_id: identity.sensor_id.clone(), window: window.clone() }
    }

    /// Asks again about every connection of a device and closes those that are denied now.
    pub(crate) fn recheck(&self, sensor_id: &str, lookup: impl Fn(&Identity) -> Option<Denied>) {
        for session in self.live.lock().get(sensor_id).into_iter().flatten() {
            if let Some(denied) = lookup(&session.identity) {
                session.window.close(Closing::Denied(denied));
            }
        }
    }

    /// Asks again about every connection of every device.
    pub(crate) fn recheck_all(&self, lookup: impl Fn(&Identity) -> Option<Denied>) {
        for session in self.live.lock().values().flatten() {
            if let Some(denied) = lookup(&session.identity) {
                session.window.close(Closing::Denied(denied));
            }
        }
    }

    /// Closes the connections whose certificates are over at `now`.
    pub(crate) fn close_expired(&self, now: SystemTime) {
        for session in self.live.lock().values().flatten() {
            if session.identity.not_after.is_over(now) {
                session.window.close(Closing::Denied(Denied::Expired));
            }
        }
    }

    /// Asks every connection to end when nothing of it is in flight.
    pub(crate) fn drain(&self) {
        self.live.lock().values().flatten().for_each(|session| session.window.drain());
    }

    /// Ends every connection.
    pub(crate) fn close(&self) {
        self.live.lock().values().flatten().for_each(|session| session.window.close(Closing::ShuttingDown));
    }
}

/// Keeps a connection among the live ones.
#[derive(Debug)]
pub(crate) struct Entered {
    sessions: Arc<Sessions>,
    sensor_id: Arc<str>,
    window: Arc<Window>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut live = self.sessions.live.lock();
        let Some(sessions) = live.get_mut(&self.sensor_id) else { return };
        sessions.retain(|session| !Arc::ptr_eq(&session.window, &self.window));
        if sessions.is_empty() {
            live.remove(&self.sensor_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::identity::NotAfter;

    fn identity(sensor_id: &str) -> Identity {
        Identity::of(sensor_id, b"certificate")
    }

    #[test]
    fn take_over_needs_the_same_device_and_client_id() {
        let sessions = Arc::new(Sessions::default());
        let windows: Vec<_> = (0..4).map(|_| Arc::new(Window::default())).collect();
        let _first = sessions.enter(&identity("a"), "x", &windows[0]);
        let _other_client = sessions.enter(&identity("a"), "y", &windows[1]);
        let _other_device = sessions.enter(&identity("b"), "x", &windows[2]);
        assert!(windows.iter().all(|window| window.asked().0.is_none()));
        let _again = sessions.enter(&identity("a"), "x", &windows[3]);
        let asked: Vec<_> = windows.iter().map(|window| window.asked().0).collect();
        assert_eq!(asked, [Some(Closing::TakenOver), None, None, None]);
    }

    #[test]
    fn connection_ends_with_its_certificate_and_no_sooner() {
        let sessions = Arc::new(Sessions::default());
        let (brief, long) = (Arc::new(Window::default()), Arc::new(Window::default()));
        let brief_one = Identity { not_after: NotAfter::from_unix_s(100), ..identity("a") };
        let _brief = sessions.enter(&brief_one, "x", &brief);
        let _long = sessions.enter(&identity("a"), "y", &long);
        for (second, expected) in [(100, None), (101, Some(Closing::Denied(Denied::Expired)))] {
            sessions.close_expired(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            assert_eq!((brief.asked().0, long.asked().0), (expected, None), "second {second}");
        }
    }

    #[test]
    fn connection_taken_over_does_not_remove_its_successor() {
        let sessions = Arc::new(Sessions::default());
        let (old, new) = (Arc::new(Window::default()), Arc::new(Window::default()));
        let entered = sessions.enter(&identity("a"), "x", &old);
        let entered_again = sessions.enter(&identity("a"), "x", &new);
        drop(entered);
        sessions.recheck("a", |_| Some(Denied::Suspended));
        assert_eq!(new.asked().0, Some(Closing::Denied(Denied::Suspended)));
        drop(entered_again);
        assert!(sessions.live.lock().is_empty());
    }
}

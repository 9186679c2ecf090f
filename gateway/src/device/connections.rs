//! The live connections: for take-over, for telling a live connection that its device may not publish any
//! more or that its certificate has ended, and for the drain.

use crate::device::identity::Identity;
use crate::device::registry::Denied;
use crate::durable::in_flight::InFlight;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How late a connection may end after its certificate.
const EXPIRY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Ends connections as their certificates end; never ends itself. The clock of the host counts, not a timer
/// that was set when the connection began: it may have been wrong then.
pub(crate) async fn end_with_certificates(connections: &Connections) {
    loop {
        tokio::time::sleep(EXPIRY_LOOK_INTERVAL).await;
        connections.close_expired(SystemTime::now());
    }
}

/// Why others end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The same device connected again with the same client id.
    TakenOver,
    /// The device may not publish any more.
    Denied(Denied),
    /// The gateway stops and does not wait any longer.
    ShuttingDown,
}

/// What others have of a live connection: they may ask it to end.
#[derive(Debug, Default)]
pub(crate) struct Link {
    in_flight: Arc<InFlight>,
    asked: Mutex<Asked>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    closing: Option<Closing>,
    is_draining: bool,
}

impl Link {
    /// Its messages.
    pub(crate) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Asks the connection to end. The first reason stands.
    pub(crate) fn close(&self, closing: Closing) {
        self.asked.lock().closing.get_or_insert(closing);
        self.in_flight.wake();
    }

    /// Asks the connection to read nothing more and to end when nothing is in flight.
    pub(crate) fn drain(&self) {
        self.asked.lock().is_draining = true;
        self.in_flight.wake();
    }

    /// Returns what the connection has been asked.
    pub(crate) fn asked(&self) -> (Option<Closing>, bool) {
        let asked = *self.asked.lock();
        (asked.closing, asked.is_draining)
    }
}

/// Live connections by sensor id. The client id tells those of one device apart, and never reaches another
/// device's.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    live: Mutex<HashMap<Arc<str>, Vec<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    client_id: Box<str>,
    identity: Identity,
    link: Arc<Link>,
}

impl Connections {
    /// Adds a connection and closes the one it takes over, if any. It leaves when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, identity: &Identity, client_id: &str, link: &Arc<Link>) -> Entered {
        let mut live = self.live.lock();
        let connections = live.entry(identity.sensor_id.clone()).or_default();
        connections.retain(|connection| {
            let is_other = *connection.client_id != *client_id;
            if !is_other {
                connection.link.close(Closing::TakenOver);
            }
            is_other
        });
        connections.push(Connection {
            client_id: client_id.into(),
            identity: identity.clone(),
            link: link.clone(),
        });
        Entered { connections: self.clone(), sensor_id: identity.sensor_id.clone(), link: link.clone() }
    }

    /// Asks again about every connection of a device and closes those that are denied now.
    pub(crate) fn recheck(&self, sensor_id: &str, lookup: impl Fn(&Identity) -> Option<Denied>) {
        for connection in self.live.lock().get(sensor_id).into_iter().flatten() {
            if let Some(denied) = lookup(&connection.identity) {
                connection.link.close(Closing::Denied(denied));
            }
        }
    }

    /// Asks again about every connection of every device.
    pub(crate) fn recheck_all(&self, lookup: impl Fn(&Identity) -> Option<Denied>) {
        for connection in self.live.lock().values().flatten() {
            if let Some(denied) = lookup(&connection.identity) {
                connection.link.close(Closing::Denied(denied));
            }
        }
    }

    /// Closes the connections whose certificates are over at `now`.
    pub(crate) fn close_expired(&self, now: SystemTime) {
        for connection in self.live.lock().values().flatten() {
            if connection.identity.not_after.is_over(now) {
                connection.link.close(Closing::Denied(Denied::Expired));
            }
        }
    }

    /// Asks every connection to end when nothing of it is in flight.
    pub(crate) fn drain(&self) {
        self.live.lock().values().flatten().for_each(|connection| connection.link.drain());
    }

    /// Ends every connection.
    pub(crate) fn close(&self) {
        self.live
            .lock()
            .values()
            .flatten()
            .for_each(|connection| connection.link.close(Closing::ShuttingDown));
    }
}

/// Keeps a connection among the live ones.
#[derive(Debug)]
pub(crate) struct Entered {
    connections: Arc<Connections>,
    sensor_id: Arc<str>,
    link: Arc<Link>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut live = self.connections.live.lock();
        let Some(connections) = live.get_mut(&self.sensor_id) else { return };
        connections.retain(|connection| !Arc::ptr_eq(&connection.link, &self.link));
        if connections.is_empty() {
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
        let connections = Arc::new(Connections::default());
        let links: Vec<_> = (0..4).map(|_| Arc::new(Link::default())).collect();
        let _first = connections.enter(&identity("a"), "x", &links[0]);
        let _other_client = connections.enter(&identity("a"), "y", &links[1]);
        let _other_device = connections.enter(&identity("b"), "x", &links[2]);
        assert!(links.iter().all(|link| link.asked().0.is_none()));
        let _again = connections.enter(&identity("a"), "x", &links[3]);
        let asked: Vec<_> = links.iter().map(|link| link.asked().0).collect();
        assert_eq!(asked, [Some(Closing::TakenOver), None, None, None]);
    }

    #[test]
    fn connection_ends_with_its_certificate_and_no_sooner() {
        let connections = Arc::new(Connections::default());
        let (brief, long) = (Arc::new(Link::default()), Arc::new(Link::default()));
        let brief_one = Identity { not_after: NotAfter::from_unix_s(100), ..identity("a") };
        let _brief = connections.enter(&brief_one, "x", &brief);
        let _long = connections.enter(&identity("a"), "y", &long);
        for (second, expected) in [(100, None), (101, Some(Closing::Denied(Denied::Expired)))] {
            connections.close_expired(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            assert_eq!((brief.asked().0, long.asked().0), (expected, None), "second {second}");
        }
    }

    #[test]
    fn connection_taken_over_does_not_remove_its_successor() {
        let connections = Arc::new(Connections::default());
        let (old, new) = (Arc::new(Link::default()), Arc::new(Link::default()));
        let entered = connections.enter(&identity("a"), "x", &old);
        let entered_again = connections.enter(&identity("a"), "x", &new);
        drop(entered);
        connections.recheck("a", |_| Some(Denied::Suspended));
        assert_eq!(new.asked().0, Some(Closing::Denied(Denied::Suspended)));
        drop(entered_again);
        assert!(connections.live.lock().is_empty());
    }

    #[test]
    fn first_reason_to_close_stands() {
        let link = Link::default();
        link.close(Closing::Denied(Denied::Suspended));
        link.close(Closing::ShuttingDown);
        assert_eq!(link.asked(), (Some(Closing::Denied(Denied::Suspended)), false));
    }
}

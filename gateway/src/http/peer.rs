//! The other end of a connection, as far as its requests have shown who it is.

use crate::device::account::{Account, Connected};
use crate::device::identity::Identity;
use crate::device::registry::{Denied, Device};
use crate::gateway::Gateway;
use chassis::auth::{self, Role};
use chassis::problem::Problem;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// The device that a request is of.
pub(super) struct Sender {
    pub(super) sensor_id: Arc<str>,
    pub(super) device: Arc<Device>,
    pub(super) account: Account,
}

/// The other end of one connection: a stranger, until a request of a registered device has come.
pub(super) struct Peer {
    /// Its certificate's, when it has shown one.
    identity: Option<Identity>,
    is_known: AtomicBool,
    /// The place of the device that it spoke for last: of its certificate, or of the token that came last.
    place: Mutex<Option<(Arc<str>, Connected)>>,
}

impl Peer {
    pub(super) fn new(certified: Option<(Identity, Connected)>) -> Self {
        let (identity, connected) = certified.unzip();
        let place = identity.as_ref().map(|identity| identity.sensor_id.clone()).zip(connected);
        Self { identity, is_known: AtomicBool::new(false), place: Mutex::new(place) }
    }

    /// Tells whether a request of it was that of a registered device.
    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Says whose request this is. Every request is asked anew, so that a device which was suspended since is
    /// refused.
    pub(super) async fn authenticate(&self, gateway: &Gateway, head: &Parts) -> Result<Sender, Problem> {
        let denied = |denied: Denied| Problem::new(StatusCode::FORBIDDEN, denied.to_string());
        let (sensor_id, device) = match &self.identity {
            Some(identity) => {
                (identity.sensor_id.clone(), gateway.registry.lookup(identity).map_err(denied)?)
            }
            None => {
                let sensor_id = subject(gateway, head).await?;
                let device = gateway.registry.active(&sensor_id).map_err(denied)?;
                (sensor_id.into(), device)
            }
        };
        let account = self.account(gateway, &sensor_id)?;
        self.is_known.store(true, Ordering::Relaxed);
        Ok(Sender { sensor_id, device, account })
    }

    /// Opens the account of the device that the connection now speaks for, and takes a place in it.
    fn account(&self, gateway: &Gateway, sensor_id: &Arc<str>) -> Result<Account, Problem> {
        let mut place = self.place.lock();
        if let Some((of, connected)) = &*place
            && of == sensor_id
        {
            return Ok(connected.account().clone());
        }
        let account = gateway.accounts.of(sensor_id);
        let Some(connected) = account.connect(Instant::now()) else {
            gateway.metrics.refusals.with_label_values(&["connections-per-device-max"]).inc();
            let detail = "the device has as many connections as it may";
            return Err(Problem::too_many(detail, super::RETRY_LATER));
        };
        *place = Some((sensor_id.clone(), connected));
        Ok(account)
    }
}

/// Reads the sensor id of a device's token.
async fn subject(gateway: &Gateway, head: &Parts) -> Result<String, Problem> {
    let verifier = gateway.tokens.as_ref().ok_or_else(|| {
        Problem::unauthorized(
            "send a client certificate: without JWT_JWKS_FILE or JWT_JWKS_URL no token is taken here",
        )
    })?;
    let token =
        head.headers.get(AUTHORIZATION).and_then(|value| auth::bearer(value.to_str().ok()?)).ok_or_else(
            || Problem::unauthorized("send a client certificate, or a token: Authorization: Bearer …"),
        )?;
    let caller = verifier.verify(token).await.map_err(refused)?;
    // An admin has every role, but its name is no sensor's: the registry has the last word.
    caller.require(&[Role::Device]).map_err(refused)?;
    Ok(caller.subject)
}

fn refused(error: auth::Error) -> Problem {
    let status = match error {
        auth::Error::Absent | auth::Error::Invalid(_) => StatusCode::UNAUTHORIZED,
        auth::Error::Forbidden(_) => StatusCode::FORBIDDEN,
        auth::Error::Unavailable => return Problem::busy(error.to_string(), super::RETRY_LATER),
    };
    Problem::new(status, error.to_string()).header("www-authenticate", error.challenge())
}

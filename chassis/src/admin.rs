//! `/metrics`, `/livez`, `/readyz` on a port of their own.
//!
//! Live means that the loop turned recently and nothing is stuck: restart the process otherwise. Ready means
//! that every dependency latch is open: send no work when one is not. The two never share an answer.

use crate::Chassis;
use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context;
use parking_lot::Mutex;
use prometheus::{Encoder, TextEncoder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Age of the last turn from which a loop counts as stuck; longer than any single bounded wait of ours.
const TURN_AGE_MAX: Duration = Duration::from_secs(60);

/// Holds the latches of a service, all closed at first.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    latches: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Adds a closed latch, or returns the one with that name.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.latches.lock().entry(name).or_insert(false);
        Latch { name, readiness: self.clone() }
    }

    /// Says whether there are latches, and all of them are open. A service that has none yet has not begun.
    pub fn is_ready(&self) -> bool {
        let latches = self.latches.lock();
        !latches.is_empty() && latches.values().all(|open| *open)
    }

    /// Lists the closed latches.
    pub fn closed(&self) -> Vec<&'static str> {
        self.latches.lock().iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }

    fn set(&self, name: &'static str, open: bool) {
        let was = self.latches.lock().insert(name, open);
        if was != Some(open) {
            tracing::info!(latch = name, open, "readiness changed");
        }
    }
}

/// Says whether one dependency is there.
#[derive(Clone, Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Latch {
    /// Says that the dependency is there.
    pub fn open(&self) {
        self.readiness.set(self.name, true);
    }

    /// Says that the dependency is away.
    pub fn close(&self) {
        self.readiness.set(self.name, false);
    }

    /// Opens or closes it.
    pub fn set(&self, is_open: bool) {
        self.readiness.set(self.name, is_open);
    }
}

/// Remembers when the main loop last turned, and what is stuck beyond help. A service without a loop never
/// beats and counts as live.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    turned: Arc<Mutex<Option<Instant>>>,
    stuck: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Liveness {
    /// Says that the loop turned.
    pub fn beat(&self) {
        *self.turned.lock() = Some(Instant::now());
    }

    /// Says whether something can only be helped by a restart.
    pub fn set_stuck(&self, name: &'static str, is_stuck: bool) {
        let mut stuck = self.stuck.lock();
        let has_changed = if is_stuck { stuck.insert(name) } else { stuck.remove(name) };
        if has_changed {
            tracing::error!(name, is_stuck, "liveness changed");
        }
    }

    /// Says whether the loop turned recently and nothing is stuck.
    pub fn is_live(&self) -> bool {
        self.stuck.lock().is_empty()
            && self.turned.lock().is_none_or(|turned| turned.elapsed() < TURN_AGE_MAX)
    }

    fn complaint(&self) -> String {
        let stuck: Vec<_> = self.stuck.lock().iter().copied().collect();
        match stuck[..] {
            [] => "the loop does not turn\n".to_owned(),
            _ => format!("stuck: {}\n", stuck.join(", ")),
        }
    }
}

/// Binds the admin server; it serves once it is awaited.
///
/// # Errors
/// The address cannot be bound (stop).
pub fn serve(listen: SocketAddr, chassis: &Chassis) -> anyhow::Result<Server> {
    let chassis = web::Data::new(chassis.clone());
    Ok(HttpServer::new(move || {
        App::new()
            .app_data(chassis.clone())
            .wrap(from_fn(head_as_get))
            .route("/metrics", web::get().to(metrics))
            .route("/livez", web::get().to(livez))
            .route("/readyz", web::get().to(readyz))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .bind(listen)
    .with_context(|| format!("bind the admin server to {listen}"))?
    .run())
}

/// Routes a HEAD as a GET; the server leaves the body out by itself. Source: RFC 9110, section 9.3.2.
pub(crate) async fn head_as_get(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    next.call(request).await
}

async fn metrics(chassis: web::Data<Chassis>) -> HttpResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&chassis.registry.gather(), &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text),
        Err(error) => {
            tracing::error!(%error, "cannot encode metrics");
            HttpResponse::InternalServerError().finish()
        }
    }
}

async fn livez(chassis: web::Data<Chassis>) -> HttpResponse {
    if chassis.liveness.is_live() {
        HttpResponse::Ok().body("live\n")
    } else {
        HttpResponse::ServiceUnavailable().body(chassis.liveness.complaint())
    }
}

async fn readyz(chassis: web::Data<Chassis>) -> HttpResponse {
    if chassis.readiness.is_ready() && !chassis.shutdown.is_cancelled() {
        HttpResponse::Ok().body("ready\n")
    } else {
        let closed = chassis.readiness.closed();
        HttpResponse::ServiceUnavailable().body(format!("waiting for: {}\n", closed.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_latch_is_open() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready(), "nothing has begun");
        let (kafka, postgres) = (readiness.latch("kafka"), readiness.latch("postgres"));
        assert_eq!(readiness.closed(), ["kafka", "postgres"]);
        kafka.open();
        postgres.open();
        assert!(readiness.is_ready() && readiness.closed().is_empty());
        kafka.close();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.closed(), ["kafka"]);
    }

    #[test]
    fn live_means_that_nothing_is_stuck() {
        let liveness = Liveness::default();
        assert!(liveness.is_live(), "a service without a loop is live");
        liveness.set_stuck("progress", true);
        assert!(!liveness.is_live() && liveness.complaint().contains("progress"));
        liveness.set_stuck("progress", false);
        liveness.beat();
        assert!(liveness.is_live());
    }
}

//! The plumbing every service starts with. It knows no event type.
//!
//! A module is named after a piece of infrastructure and has at least two services that use it today:
//! [`config`] (environment), [`telemetry`] (logs), [`mod@metrics`], [`admin`] (`/metrics`, `/livez`,
//! `/readyz`), [`retry`] (backoff), `kafka`, `postgres`, and for REST services `http`, `problem`, `auth` and
//! `rest`.

pub mod admin;
pub mod config;
pub mod metrics;
pub mod retry;
pub mod telemetry;

#[cfg(feature = "rest")]
pub mod auth;
#[cfg(feature = "rest")]
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "rest")]
pub mod problem;
#[cfg(all(feature = "rest", feature = "postgres"))]
pub mod rest;

use admin::{Liveness, Readiness};
use config::Env;
use prometheus::Registry;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Exit code for settings that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Holds what every service needs and shares with its tasks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chassis {
    /// Where `metrics.rs` registers; served at `/metrics`.
    pub registry: Registry,
    /// Latches that are all open when the service can do its work; served at `/readyz`.
    pub readiness: Readiness,
    /// Beats of the main loop; served at `/livez`.
    pub liveness: Liveness,
    /// Cancelled by SIGTERM and SIGINT; a service then drains and returns.
    pub shutdown: CancellationToken,
}

impl Chassis {
    /// Makes a chassis without any server behind it, as tests use it.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Runs a service: settings, logs, signals, admin server, then `run`.
///
/// Returns exit code 0 after a drain, 64 for unusable settings (each is named), 1 for anything else.
pub fn main<C, R>(service: &'static str, read: impl FnOnce(&mut Env) -> C, run: R) -> ExitCode
where
    R: AsyncFnOnce(C, Chassis) -> anyhow::Result<()>,
{
    telemetry::init();
    telemetry::log_panics();
    let mut env = Env::process();
    let admin_listen = env.socket("ADMIN_LISTEN");
    let config = read(&mut env);
    if let Err(problems) = env.finish() {
        tracing::error!(service, %problems, "settings cannot be used");
        return ExitCode::from(EXIT_USAGE);
    }
    install_tls_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(service, %error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(supervise(service, admin_listen, config, run));
    match outcome {
        Ok(()) => {
            tracing::info!(service, "drained");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(service, error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

async fn supervise<C, R>(service: &'static str, admin: SocketAddr, config: C, run: R) -> anyhow::Result<()>
where
    R: AsyncFnOnce(C, Chassis) -> anyhow::Result<()>,
{
    let chassis = Chassis::new();
    let server = admin::serve(admin, &chassis)?;
    let handle = server.handle();
    let admin_task = tokio::spawn(server);
    let shutdown = chassis.shutdown.clone();
    let signals = tokio::spawn(async move {
        wait_for_signal().await;
        shutdown.cancel();
    });
    tracing::info!(service, %admin, version = env!("CARGO_PKG_VERSION"), "started");
    let outcome = run(config, chassis).await;
    signals.abort();
    handle.stop(true).await;
    let _ = admin_task.await;
    outcome
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
            }
        }
        _ => {
            tracing::error!("cannot listen for signals");
            std::future::pending::<()>().await;
        }
    }
}

/// Chooses ring for every TLS connection of the process. A second call changes nothing.
pub fn install_tls_provider() {
    // Err means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

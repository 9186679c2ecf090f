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
use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Exit code for arguments and settings that cannot be used (`EX_USAGE` of sysexits.h).
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

/// Runs a service: settings, logs, signals, admin server, then `run`. With `--help` it prints what can be
/// set and with `--check` what is wrong with it, and starts nothing.
///
/// Returns exit code 0 after a drain, 64 for unusable arguments or settings (each is named), 1 for anything
/// else.
pub fn main<C, R>(service: &'static str, read: impl FnOnce(&mut Env) -> C, run: R) -> ExitCode
where
    R: AsyncFnOnce(C, Chassis) -> anyhow::Result<()>,
{
    let task = match Task::of(std::env::args_os().skip(1)) {
        Ok(Task::Describe(form)) => return describe(service, form, read),
        Ok(task) => task,
        Err(unknown) => {
            eprintln!("{service}: {unknown} is unknown; there are --help, --help=json and --check");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    telemetry::init();
    telemetry::log_panics();
    let mut env = Env::process();
    let (admin_listen, config) = read_all(&mut env, read);
    if let Err(problems) = env.finish() {
        tracing::error!(service, %problems, "settings cannot be used");
        return ExitCode::from(EXIT_USAGE);
    }
    if task == Task::Check {
        tracing::info!(service, "settings can be used");
        return ExitCode::SUCCESS;
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

/// What a process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Serve,
    Check,
    Describe(Form),
}

/// A form of the list of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Page,
    Json,
}

impl Task {
    /// Reads the arguments of a process.
    ///
    /// # Errors
    /// The first argument that is unknown, or more than one.
    fn of(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut task = Self::Serve;
        for arg in args {
            let told = match arg.to_str() {
                Some("--help" | "-h") => Self::Describe(Form::Page),
                Some("--help=json") => Self::Describe(Form::Json),
                Some("--check") => Self::Check,
                _ => return Err(arg.to_string_lossy().into_owned()),
            };
            if task != Self::Serve {
                return Err("a second argument".to_owned());
            }
            task = told;
        }
        Ok(task)
    }
}

/// Reads what every service is told, then what this one is.
fn read_all<C>(env: &mut Env, read: impl FnOnce(&mut Env) -> C) -> (SocketAddr, C) {
    env.about("Serves `/livez`, `/readyz` and `/metrics`.");
    let admin_listen = env.socket("ADMIN_LISTEN");
    // The subscriber has read it, to log what is wrong with the others.
    env.about("Filters the log: a level, or directives such as `info,rdkafka=warn`.").text_or("LOG", "info");
    (admin_listen, read(env))
}

fn describe<C>(service: &str, form: Form, read: impl FnOnce(&mut Env) -> C) -> ExitCode {
    let mut env = Env::of([]);
    read_all(&mut env, read);
    let text = match form {
        Form::Page => config::page(service, env.settings()),
        Form::Json => serde_json::to_string_pretty(env.settings()).unwrap_or_default() + "\n",
    };
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_serves_unless_it_is_asked_for_one_thing_it_knows() {
        let of = |args: &[&str]| Task::of(args.iter().map(OsString::from));
        assert_eq!(of(&[]), Ok(Task::Serve));
        assert_eq!(of(&["--check"]), Ok(Task::Check));
        assert_eq!(of(&["--help=json"]), Ok(Task::Describe(Form::Json)));
        assert_eq!(of(&["--chek"]), Err("--chek".to_owned()));
        assert!(of(&["--check", "--help"]).is_err());
    }
}

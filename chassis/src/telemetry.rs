//! Logs: JSON lines in a pipe, pretty on a terminal. `LOG` filters them (`info` when absent).

use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Installs the subscriber of the process. A second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // Err means that a subscriber is installed already, as in tests.
    let _ = if std::io::stderr().is_terminal() {
        registry.with(fmt::layer().compact().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    };
}

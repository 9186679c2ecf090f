//! `iotctl alerts`.

use super::from_env;
use crate::alerts::{Filter, follow};
use crate::state::{KAFKA_PORT, State};
use anyhow::{Context as _, Result};
use chassis::kafka::Settings;
use clap::{Args, ValueEnum};
use schema::Severity;

#[derive(Debug, Args)]
pub(super) struct AlertsOptions {
    /// Shows what comes from now on, until Ctrl-C.
    #[arg(long, required = true)]
    follow: bool,
    /// Begins with what the topic still has.
    #[arg(long)]
    from_beginning: bool,
    /// Alerts of one sensor alone.
    #[arg(long)]
    sensor: Option<String>,
    /// Alerts of one severity alone.
    #[arg(long, value_enum)]
    severity: Option<Level>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warning,
    /// Worth waking somebody.
    Critical,
}

/// Shows alerts; the broker is named as for services, or is that of the local installation.
pub(super) async fn run(state: Option<&State>, offset: Option<u16>, options: AlertsOptions) -> Result<()> {
    let is_named = std::env::var_os("KAFKA_BOOTSTRAP_SERVERS").is_some();
    let broker = match state.filter(|_| !is_named) {
        Some(state) => {
            let port = crate::up::ports(state, offset)?.at(KAFKA_PORT);
            Settings::local(format!("127.0.0.1:{port}"), "")
        }
        None => from_env(Settings::from_env)
            .context("name the broker as a service is told, or go where `make up` was run")?,
    };
    let severity = options.severity.map(|level| match level {
        Level::Info => Severity::Info,
        Level::Warning => Severity::Warning,
        Level::Critical => Severity::Critical,
    });
    let filter = Filter { sensor_id: options.sensor, severity };
    follow(&broker, &filter, options.from_beginning).await
}

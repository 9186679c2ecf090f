//! The same topology in Kafka Streams: `bench/java/AlertsTopology.java`.

use super::drain::{self, Lap};
use super::stage::{Client, Stage};
use crate::peers::Peers;
use anyhow::{Context as _, Result};

/// Topic of its rules, by sensor.
pub(super) const RULES: &str = "streams-rules";
/// Topic of its alerts.
pub(super) const ALERTS: &str = "streams-alerts";

pub(super) async fn drain(stage: &Stage, peers: &Peers) -> Result<Lap> {
    stage.empty(&[ALERTS]).await?;
    // An application of this run's own: its changelogs begin empty.
    let name = stage.kafka.group(&format!("streams-{}", iotctl::files::random_name(6)));
    let state = peers.settings()?.join(&name);
    let mut command = peers.java("AlertsTopology");
    command
        .env("BOOTSTRAP", &stage.options.kafka_bootstrap)
        .env("GROUP", &name)
        .env("STATE_DIR", &state)
        .env("THREADS", stage.options.streams_threads.to_string())
        .env("COMMIT_MS", stage.options.streams_commit_ms.to_string())
        .env("READINGS", &stage.readings.name)
        .env("RULES", stage.kafka.topic(RULES))
        .env("ALERTS", stage.kafka.topic(ALERTS));
    let mut client = Client::start(stage, "streams", &mut command)?;
    let lap = drain::watch(stage, &mut client, &name).await?;
    // A JVM that SIGTERM ends reports so.
    client.process.stop().await?;
    // Stores in memory leave nothing there, or next to nothing.
    if state.exists() {
        std::fs::remove_dir_all(&state).context("remove the state of Kafka Streams")?;
    }
    Ok(Lap { alerts: stage.count(ALERTS)?, ..lap })
}

//! command-svc as the real process, with its defaults.

use super::contender::Contender;
use super::lap::Run;
use super::{Stage, drain};
use crate::server::Database;
use crate::topic::{Group, Topic};
use anyhow::Result;
use iotctl::process::{Process, Stop};
use iotctl::state::free_port;
use tokio::process::Command;

/// Drains the readings once.
pub(super) async fn drain(stage: &Stage, contender: Contender, database: &Database) -> Result<Run> {
    let (mut service, group) = start(stage, contender, database, &stage.readings)?;
    let run = drain::watch(&mut service, &group, stage, stage.options.rows).await?;
    stop(service, group).await?;
    Ok(run)
}

/// Starts it on a topic of readings.
pub(super) fn start(
    stage: &Stage,
    contender: Contender,
    database: &Database,
    topic: &Topic,
) -> Result<(drain::Client, Group)> {
    let prefix = topic.settings.topic("");
    let mut command = Command::new(stage.options.program(contender).unwrap_or_default());
    command
        .env("ADMIN_LISTEN", format!("127.0.0.1:{}", free_port()?))
        .env("KAFKA_BOOTSTRAP_SERVERS", &stage.options.kafka_bootstrap)
        .env("KAFKA_TOPIC_PREFIX", prefix)
        .env("DATABASE_URL", &database.url)
        .env("WRITERS", stage.options.connections.to_string());
    let service = drain::Client::start(&stage.options.folder, contender.label(), &mut command, Stop::TERM)?;
    Ok((service, topic.group(&topic.settings.group("command-svc"))?))
}

/// Stops it and forgets how far it came.
pub(super) async fn stop(service: drain::Client, group: Group) -> Result<()> {
    Process::stop(service.process).await?;
    group.forget().await
}

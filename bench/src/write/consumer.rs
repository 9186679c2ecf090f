//! A plain Java consumer on the same topic: `bench/java/JdbcConsumer.java`.

use super::contender::Contender;
use super::lap::Run;
use super::{Stage, drain};
use crate::server::Database;
use anyhow::Result;
use iotctl::process::Stop;

pub(super) async fn drain(stage: &Stage, database: &Database) -> Result<Run> {
    let place = database.place()?;
    // A group of this run's own: a JVM that a signal ends does not leave its group.
    let name = stage.kafka.group(&format!("jdbc-consumer-{}", iotctl::files::random_name(6)));
    let mut command = stage.peers().java("JdbcConsumer");
    command
        .env("BOOTSTRAP", &stage.options.kafka_bootstrap)
        .env("TOPIC", &stage.readings.name)
        .env("GROUP", &name)
        .env("THREADS", stage.options.connections.to_string())
        .env("BATCH_RECORDS", stage.options.peer_batch_records.to_string())
        .env("JDBC_URL", place.jdbc_url)
        .env("DB_USER", place.user)
        .env("DB_PASSWORD", place.password);
    let label = Contender::Consumer.label();
    let mut client = drain::Client::start(&stage.options.folder, label, &mut command, Stop::TERM)?;
    let group = stage.readings.group(&name)?;
    let run = drain::watch(&mut client, &group, stage, stage.options.rows).await?;
    client.process.stop().await?;
    Ok(run)
}

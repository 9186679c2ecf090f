//! Debezium's JDBC sink on a standalone Kafka Connect, with its own copy of the records, each with its
//! schema.

use super::contender::Contender;
use super::lap::Run;
use super::{Stage, drain};
use crate::readings::{DEVICE_TYPE, METRIC, Row};
use crate::server::Database;
use anyhow::{Context as _, Result};
use iotctl::files::{self, Readers};
use iotctl::process::Stop;
use iotctl::state::free_port;
use std::io::Write as _;

/// How the JSON converter wants a record's schema; the names are the types that Debezium's own sources use.
const SCHEMA: &str = r#"{"schema":{"type":"struct","optional":false,"fields":[{"field":"sensor_id","type":"string","optional":false},{"field":"metric","type":"string","optional":false},{"field":"reading_at","type":"string","optional":false,"name":"io.debezium.time.ZonedTimestamp","version":1},{"field":"value","type":"double","optional":false},{"field":"event_id","type":"string","optional":false,"name":"io.debezium.data.Uuid","version":1},{"field":"received_at","type":"string","optional":false,"name":"io.debezium.time.ZonedTimestamp","version":1},{"field":"device_type","type":"string","optional":false},{"field":"zone_id","type":"string","optional":false}]},"payload":"#;

/// Encodes a row as the sink needs it.
pub(super) fn encode(row: &Row<'_>, value: &mut Vec<u8>) -> Result<()> {
    let Row { sensor, reading_at, received_at, value: measured, event_id, .. } = row;
    let (sensor_id, zone_id) = (&sensor.sensor_id, &sensor.zone_id);
    value.extend_from_slice(SCHEMA.as_bytes());
    write!(
        value,
        "{{\"sensor_id\":\"{sensor_id}\",\"metric\":\"{METRIC}\",\"reading_at\":\"{reading_at}\",\"value\":{measured},\
         \"event_id\":\"{event_id}\",\"received_at\":\"{received_at}\",\"device_type\":\"{DEVICE_TYPE}\",\
         \"zone_id\":\"{zone_id}\"}}}}"
    )
    .context("encode a record with its schema")
}

pub(super) async fn drain(stage: &Stage, database: &Database) -> Result<Run> {
    let folder = stage.peers().settings()?;
    let topic = stage.with_schema.as_ref().context("the sink has its own topic")?;
    let offsets = folder.join("connect.offsets");
    let _ = std::fs::remove_file(&offsets);
    let worker = format!(
        "\
bootstrap.servers={bootstrap}
listeners=http://127.0.0.1:{port}
plugin.path={plugins}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
offset.storage.file.filename={offsets}
# How exactly its end is seen; the default is a minute.
offset.flush.interval.ms=1000
",
        bootstrap = stage.options.kafka_bootstrap,
        port = free_port()?,
        plugins = stage.peers().plugins().display(),
        offsets = offsets.display(),
    );
    // A group of this run's own: a JVM that a signal ends does not leave its group.
    let name = stage.kafka.group(&format!("jdbc-sink-{}", iotctl::files::random_name(6)));
    files::write(&folder.join("worker.properties"), worker.as_bytes(), Readers::Owner)?;
    files::write(&folder.join("sink.properties"), sink(stage, database, &name)?.as_bytes(), Readers::Owner)?;
    let mut command = stage.peers().java("org.apache.kafka.connect.cli.ConnectStandalone");
    command.arg(folder.join("worker.properties")).arg(folder.join("sink.properties"));
    let label = Contender::Connect.label();
    let mut client = drain::Client::start(&stage.options.folder, label, &mut command, Stop::TERM)?;
    let group = topic.group(&format!("connect-{name}"))?;
    let run = drain::watch(&mut client, &group, stage, stage.options.connect_rows()).await?;
    client.process.stop().await?;
    Ok(run)
}

/// Its fastest idempotent settings: arrays instead of single rows, and batches as large as the plain
/// consumer's.
fn sink(stage: &Stage, database: &Database, name: &str) -> Result<String> {
    let place = database.place()?;
    let records = stage.options.peer_batch_records;
    Ok(format!(
        "\
name={name}
connector.class=io.debezium.connector.jdbc.JdbcSinkConnector
tasks.max={tasks}
topics={topic}
connection.url={url}?reWriteBatchedInserts=true
connection.username={user}
connection.password={password}
insert.mode=upsert
primary.key.mode=record_value
primary.key.fields=sensor_id,metric,reading_at,event_id
schema.evolution=none
collection.name.format=readings_ingestion
dialect.postgres.unnest.insert.enabled=true
batch.size={records}
consumer.override.max.poll.records={records}
",
        tasks = stage.options.connections,
        topic = stage.with_schema.as_ref().map_or("", |topic| &topic.name),
        url = place.jdbc_url,
        user = place.user,
        password = place.password,
    ))
}

//! Contenders that hold their rows in memory before the clock starts: what the database itself can do.

use super::Stage;
use super::lap::{Lap, Run};
use crate::readings::{DEVICE_TYPE, METRIC, Row};
use crate::server::Database;
use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::SinkExt as _;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

const COPY: &str = "COPY readings_ingestion \
    (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes) \
    FROM STDIN BINARY";
const INSERT: &str = "INSERT INTO readings_ingestion \
    (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::uuid[], $6::timestamptz[], \
                         $7::text[], $8::text[]) \
    ON CONFLICT DO NOTHING";

/// One message of a COPY: large enough to cost nothing, small enough for the server to work while the next
/// one travels.
const MESSAGE_BYTES: usize = 64 << 10;
/// Microseconds from 1970, which we count from, to 2000, which PostgreSQL counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows that one transaction writes.
trait Batch: Send + Sized + 'static {
    /// Prepares it, before the clock starts.
    fn of<'a>(rows: impl Iterator<Item = Row<'a>>) -> Self;

    /// Writes it.
    fn write(self, client: &mut Client) -> impl Future<Output = Result<()>> + Send;
}

/// Copies rows that are encoded already.
pub(super) async fn copy(stage: &Stage, database: &Database, rows: Range<i64>) -> Result<Run> {
    run::<Encoded>(stage, database, rows).await
}

/// Inserts batches whose columns are there already.
pub(super) async fn insert(stage: &Stage, database: &Database, rows: Range<i64>) -> Result<Run> {
    run::<Columns>(stage, database, rows).await
}

/// Makes each connection's batches: each has sensors of its own, as each writer of command-svc has partitions
/// of its own.
async fn shares<B: Batch>(stage: &Stage, rows: Range<i64>) -> Result<Vec<Vec<B>>> {
    let (connections, batch_rows) =
        (usize::from(stage.options.connections), stage.options.batch_rows as usize);
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let (workload, rows) = (Arc::clone(&stage.workload), rows.clone());
        tasks.spawn_blocking(move || {
            let own = |number: &i64| workload.row(*number).sensor_number % connections == connection;
            let numbers: Vec<i64> = rows.filter(own).collect();
            let batch = |numbers: &[i64]| B::of(numbers.iter().map(|number| workload.row(*number)));
            numbers.chunks(batch_rows).map(batch).collect::<Vec<B>>()
        });
    }
    let mut shares = Vec::new();
    while let Some(share) = tasks.join_next().await {
        shares.push(share.context("prepare batches")?);
    }
    Ok(shares)
}

/// Writes every share through a connection of its own, all at once.
async fn run<B: Batch>(stage: &Stage, database: &Database, rows: Range<i64>) -> Result<Run> {
    let count = rows.end - rows.start;
    let mut prepared = Vec::new();
    for share in shares::<B>(stage, rows).await? {
        prepared.push((database.connect().await?, share));
    }
    let lap = Lap::start(&stage.server, std::process::id())?;
    let mut connections = JoinSet::new();
    for (mut client, share) in prepared {
        connections.spawn(async move {
            for batch in share {
                batch.write(&mut client).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = connections.join_next().await {
        written.context("write from memory")??;
    }
    lap.end(count)
}

/// Rows in the format of a binary COPY. Source: PostgreSQL manual, COPY, binary format.
struct Encoded(Bytes);

impl Batch for Encoded {
    fn of<'a>(rows: impl Iterator<Item = Row<'a>>) -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_slice(b"PGCOPY\n\xff\r\n\0");
        bytes.put_u64(0); // no flags, no extension
        for row in rows {
            bytes.put_i16(9);
            put_field(&mut bytes, row.sensor.sensor_id.as_bytes());
            put_field(&mut bytes, METRIC.as_bytes());
            put_field(&mut bytes, &(row.reading_at.as_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
            put_field(&mut bytes, &row.value.to_be_bytes());
            put_field(&mut bytes, row.event_id.as_bytes());
            put_field(&mut bytes, &(row.received_at.as_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
            put_field(&mut bytes, DEVICE_TYPE.as_bytes());
            put_field(&mut bytes, row.sensor.zone_id.as_bytes());
            bytes.put_i32(-1); // no attributes
        }
        bytes.put_i16(-1);
        Self(bytes.freeze())
    }

    async fn write(self, client: &mut Client) -> Result<()> {
        let transaction = client.transaction().await?;
        let mut sink = pin!(transaction.copy_in::<_, Bytes>(COPY).await?);
        for start in (0..self.0.len()).step_by(MESSAGE_BYTES) {
            sink.send(self.0.slice(start..self.0.len().min(start + MESSAGE_BYTES))).await?;
        }
        sink.finish().await?;
        transaction.commit().await.context("commit")
    }
}

fn put_field(row: &mut BytesMut, bytes: &[u8]) {
    row.put_i32(i32::try_from(bytes.len()).expect("no field of a synthetic row is long"));
    row.put_slice(bytes);
}

#[derive(Default)]
struct Columns {
    sensor_id: Vec<String>,
    metric: Vec<&'static str>,
    reading_at: Vec<OffsetDateTime>,
    value: Vec<f64>,
    event_id: Vec<Uuid>,
    received_at: Vec<OffsetDateTime>,
    device_type: Vec<&'static str>,
    zone_id: Vec<String>,
}

impl Batch for Columns {
    fn of<'a>(rows: impl Iterator<Item = Row<'a>>) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.sensor_id.push(row.sensor.sensor_id.clone());
            columns.metric.push(METRIC);
            columns.reading_at.push(row.reading_at.into());
            columns.value.push(row.value);
            columns.event_id.push(row.event_id);
            columns.received_at.push(row.received_at.into());
            columns.device_type.push(DEVICE_TYPE);
            columns.zone_id.push(row.sensor.zone_id.clone());
        }
        columns
    }

    async fn write(self, client: &mut Client) -> Result<()> {
        let statement = client.prepare(INSERT).await?;
        let Self { sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id } =
            &self;
        let values: [&(dyn ToSql + Sync); 8] =
            [sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id];
        client.execute(&statement, &values).await.map(|_| ()).context("insert")
    }
}

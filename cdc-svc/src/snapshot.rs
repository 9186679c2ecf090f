//! Reads both tables as of one LSN; the module docs of the crate say why a crash leaves no hole.

use crate::context::Context;
use crate::envelope::{self, Origin, Row, RowChange, TABLES, Table};
use crate::failure::{Failure, database, stop};
use crate::mark::Mark;
use crate::pgoutput::{Cell, Column, Relation};
use crate::sink::Sink;
use crate::slot::{self, State};
use crate::topic::{self, Live};
use futures::TryStreamExt;
use pgwire_replication::{Lsn, ReplicationClient};
use schema::Timestamp;
use std::pin::{Pin, pin};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

/// A temporary slot and the snapshot that was exported with it. Both end with the connection.
pub(crate) struct Exported {
    connection: ReplicationClient,
    snapshot: String,
    lsn: Lsn,
}

/// Makes the temporary slot. PostgreSQL waits for every transaction that runs at this moment.
pub(crate) async fn export(context: &Context, attempt: u32, control: &Client) -> Result<Exported, Failure> {
    let slot = &context.config.slot;
    let sql = format!(
        "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')",
        slot::temporary(slot)
    );
    let config = slot::replication(&context.config, attempt)?;
    let made = context.patiently(async {
        let mut connection = ReplicationClient::connect_gated(config).await?;
        let rows = connection.simple_query(&sql).await?;
        Ok((connection, rows))
    });
    let (connection, rows) = made.await?.map_err(slot::failure("make the snapshot's slot"))?;
    // Another replica may have completed its snapshot since we looked.
    if context.answered("look at the slot", slot::state(control, slot)).await? != State::Absent {
        return Err(Failure::Taken);
    }
    let column = |index: usize| -> Option<String> {
        let bytes = rows.first()?.get(index)?.as_ref()?;
        String::from_utf8(bytes.to_vec()).ok()
    };
    let (Some(lsn), Some(snapshot)) = (column(1).and_then(|text| Lsn::parse(&text).ok()), column(2)) else {
        return Err(Failure::Database(anyhow::anyhow!("the server answers without a snapshot")));
    };
    Ok(Exported { connection, snapshot, lsn })
}

/// Writes every row and every row that is gone, then makes the slot permanent.
pub(crate) async fn run(
    context: &Context,
    exported: Exported,
    control: &Client,
    sink: &mut Sink,
) -> Result<(), Failure> {
    tracing::info!(lsn = %exported.lsn, "taking a snapshot");
    let reader = context.connect().await?;
    // The name comes from the server and holds only hexadecimal digits and dashes; refuse anything else.
    if !exported.snapshot.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(Failure::Database(anyhow::anyhow!("the server names a snapshot oddly")));
    }
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'; \
         SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL extra_float_digits = 1",
        exported.snapshot
    );
    let enter = async { reader.batch_execute(&begin).await.map_err(database("enter the snapshot")) };
    context.answered("enter the snapshot", enter).await?;
    for table in &TABLES {
        let scan = Scan { context, reader: &reader, table, lsn: exported.lsn };
        scan.run(sink).await?;
    }
    // The mark comes first, as ever: a slot is never further than it.
    let wal = context.answered("look at the WAL", slot::found(control, &context.config.slot)).await?.wal;
    let mark = Mark { wal, slot: context.config.slot.clone(), lsn: exported.lsn.as_u64() };
    context.patiently(sink.commit(Some(&mark))).await?.map_err(Failure::Kafka)?;
    let make = slot::make_permanent(control, &context.config.slot);
    context.answered("make the slot permanent", make).await?;
    context.metrics.snapshots.inc();
    tracing::info!(lsn = %exported.lsn, "snapshot is complete");
    drop(exported.connection);
    Ok(())
}

/// Reads one table.
struct Scan<'a> {
    context: &'a Context,
    reader: &'a Client,
    table: &'a Table,
    lsn: Lsn,
}

impl Scan<'_> {
    async fn run(&self, sink: &mut Sink) -> Result<(), Failure> {
        let relation = self.context.answered("describe a table", self.relation()).await?;
        let read = self.context.patiently(topic::live(&self.context.config.kafka, self.table.topic.name));
        let live = read.await?.map_err(Failure::Kafka)?;
        let origin = Origin {
            db: &self.context.database,
            schema: &relation.schema,
            lsn: self.lsn.as_u64(),
            snapshot: true,
            ts_ms: Timestamp::now().as_micros() / 1_000,
        };
        // Deletes come first: a key that another capturer wrote in another form must not delete its own row
        // afterwards.
        for (key, value) in self.gone(&relation, live).await? {
            for record in envelope::forget(self.table, &origin, key, &value) {
                self.send(sink, &record).await?;
            }
        }
        let mut rows = pin!(self.select().await?);
        while let Some(message) = self.next(&mut rows).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let row = row_of(&relation, &row)?;
            let records = envelope::records(self.table, &origin, RowChange::Read(row));
            for record in records.map_err(stop("capture a row"))? {
                self.send(sink, &record).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, sink: &mut Sink, record: &envelope::Record) -> Result<(), Failure> {
        sink.send(record).map_err(Failure::Kafka)?;
        if sink.is_full() {
            self.context.patiently(sink.commit(None)).await?.map_err(Failure::Kafka)?;
        }
        Ok(())
    }

    /// Keeps the live records whose key no row of the table has.
    async fn gone(&self, relation: &Relation, mut live: Live) -> Result<Live, Failure> {
        if live.is_empty() {
            return Ok(live);
        }
        let mut rows = pin!(self.select().await?);
        while let Some(message) = self.next(&mut rows).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let row = row_of(relation, &row)?;
            live.remove(&envelope::key(self.table, &row).map_err(stop("capture a row"))?);
        }
        Ok(live)
    }

    async fn next(
        &self,
        rows: &mut Pin<&mut SimpleQueryStream>,
    ) -> Result<Option<SimpleQueryMessage>, Failure> {
        let next = async { rows.try_next().await.map_err(database("read a row")) };
        self.context.answered("read a row", next).await
    }

    /// Reads in text format, as the stream does, so that both go through one conversion.
    async fn select(&self) -> Result<SimpleQueryStream, Failure> {
        let sql = format!("SELECT * FROM {}", self.table.name);
        let select = async { self.reader.simple_query_raw(&sql).await.map_err(database("read a table")) };
        self.context.answered("read a table", select).await
    }

    async fn relation(&self) -> Result<Relation, Failure> {
        let sql = format!("SELECT * FROM {}", self.table.name);
        let statement = self.reader.prepare(&sql).await.map_err(database("describe a table"))?;
        let columns = statement.columns().iter();
        let sql = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.oid = $1::text::regclass";
        let row =
            self.reader.query_one(sql, &[&self.table.name]).await.map_err(database("describe a table"))?;
        Ok(Relation {
            id: 0,
            schema: row.get(0),
            table: self.table.name.to_owned(),
            columns: columns
                .map(|column| Column { name: column.name().to_owned(), type_oid: column.type_().oid() })
                .collect(),
        })
    }
}

fn row_of(relation: &Relation, row: &SimpleQueryRow) -> Result<Row, Failure> {
    let cell = |index| row.get(index).map_or(Cell::Null, |text| Cell::Text(text.to_owned()));
    envelope::row(relation, (0..row.len()).map(cell).collect(), None).map_err(stop("read a row"))
}

//! Changes from the slot to the sink, one database transaction after the other.

use crate::context::Context;
use crate::envelope::{self, Origin, RowChange, TABLES, Table};
use crate::failure::{Failure, database, stop};
use crate::mark::{Mark, Wal};
use crate::pgoutput::{self, Message, Relation};
use crate::sink::Sink;
use crate::slot::{self, SILENCE_MAX};
use crate::topic;
use pgwire_replication::{Lsn, PgWireError, ReplicationClient, ReplicationEvent};
use schema::Timestamp;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a Kafka transaction is committed: a single database transaction is visible at once,
/// while small ones that follow each other share a commit, as long as the first of them is not old.
const LINGER: Duration = Duration::from_millis(2);
/// How often an idle stream looks at its own silence and beats.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Interval at which WAL of other tables is let go. Each time costs a small Kafka transaction, and beside
/// many writes to other tables the server speaks of it all the time.
const LET_GO_EVERY: Duration = Duration::from_secs(1);
/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The database transaction that is being received.
#[derive(Clone, Copy)]
struct Receiving {
    commit_lsn: Lsn,
    commit_micros: i64,
}

/// Whole database transactions that are not confirmed.
#[derive(Clone, Copy)]
struct Unconfirmed {
    /// End of the last one.
    end: Lsn,
    /// Commit time of the first one, which has waited longest.
    first_commit_micros: i64,
}

/// Streams until the shutdown or a failure.
pub(crate) async fn run(
    context: &Context,
    wal: Wal,
    source: &mut ReplicationClient,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let mut stream = Stream {
        context,
        wal,
        source,
        sink,
        relations: HashMap::new(),
        receiving: None,
        unconfirmed: None,
        foreign: None,
        let_go: Instant::now(),
    };
    let outcome = stream.run().await;
    stream.source.stop();
    outcome
}

struct Stream<'a> {
    context: &'a Context,
    wal: Wal,
    source: &'a mut ReplicationClient,
    sink: &'a mut Sink,
    relations: HashMap<u32, Relation>,
    receiving: Option<Receiving>,
    /// What the open Kafka transaction holds of whole database transactions.
    unconfirmed: Option<Unconfirmed>,
    /// End of WAL that holds no change of ours and is to be let go: the server says it once.
    foreign: Option<Lsn>,
    /// When WAL of other tables was last let go.
    let_go: Instant,
}

impl Stream<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let shutdown = self.context.chassis.shutdown.clone();
        let mut heard = Instant::now();
        loop {
            self.context.chassis.liveness.beat();
            let lingering = self.receiving.is_none() && self.sink.is_open();
            let wait = match self.foreign {
                _ if lingering => LINGER,
                Some(_) => LET_GO_EVERY.saturating_sub(self.let_go.elapsed()),
                None => IDLE_LOOK,
            };
            let event = tokio::select! {
                event = tokio::time::timeout(wait, self.source.recv()) => event,
                () = shutdown.cancelled() => return self.drain().await,
            };
            match event {
                Ok(Ok(Some(event))) => {
                    heard = Instant::now();
                    self.handle(event).await?;
                }
                Ok(Ok(None)) => return Err(ended("the server ended the stream")),
                Ok(Err(error)) => return Err(slot::failure("read the stream")(error)),
                Err(_) if lingering => self.commit().await?,
                Err(_) if self.foreign.is_some() => self.let_go().await?,
                Err(_) if heard.elapsed() > SILENCE_MAX => return Err(ended("the server is silent")),
                Err(_) => {}
            }
        }
    }

    /// Commits what is whole; an unfinished database transaction is aborted and comes again.
    async fn drain(&mut self) -> Result<(), Failure> {
        if self.receiving.is_none() && self.sink.is_open() {
            self.sink.commit(self.mark().as_ref()).await.map_err(Failure::Kafka)?;
            self.confirm();
        }
        Err(Failure::Shutdown)
    }

    async fn handle(&mut self, event: ReplicationEvent) -> Result<(), Failure> {
        match event {
            ReplicationEvent::Begin { final_lsn, commit_time_micros, .. } => {
                let commit_micros = commit_time_micros.saturating_add(PG_EPOCH_MICROS);
                self.receiving = Some(Receiving { commit_lsn: final_lsn, commit_micros });
                // Its own end is further.
                self.foreign = None;
            }
            ReplicationEvent::XLogData { data, .. } => {
                let message = pgoutput::decode(&data).map_err(stop("decode a change"))?;
                self.change(message).await?;
                if self.sink.is_full() {
                    // Durable, but not confirmed before its transaction ends; see the crate's docs.
                    self.commit().await?;
                }
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                let commit_micros = self.receiving.take().map_or(0, |receiving| receiving.commit_micros);
                let first_commit_micros =
                    self.unconfirmed.map_or(commit_micros, |one| one.first_commit_micros);
                self.unconfirmed = Some(Unconfirmed { end: end_lsn, first_commit_micros });
                if self.sink.is_old() {
                    self.commit().await?;
                }
            }
            // Everything up to here has been sent, and nothing of it is under way: WAL of other tables is let
            // go.
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                let is_idle = self.receiving.is_none() && !self.sink.is_open();
                if is_idle {
                    self.foreign = Some(wal_end);
                    if self.let_go.elapsed() >= LET_GO_EVERY {
                        self.let_go().await?;
                    }
                }
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(())
    }

    async fn change(&mut self, message: Message) -> Result<(), Failure> {
        let (id, old, new, is_update) = match message {
            Message::Relation(relation) => {
                if table(&relation).is_none() {
                    tracing::warn!(table = relation.table, "publication holds a table that has no topic");
                }
                self.relations.insert(relation.id, relation);
                return Ok(());
            }
            Message::Truncate { relation_ids } => return self.truncate(&relation_ids).await,
            Message::Other => return Ok(()),
            Message::Insert { relation_id, new } => (relation_id, None, Some(new), false),
            Message::Update { relation_id, old, new } => (relation_id, old, Some(new), true),
            Message::Delete { relation_id, old } => (relation_id, old, None, false),
        };
        let relation = self.relation(id)?;
        let Some(table) = table(relation) else { return Ok(()) };
        let row = |tuple, before| envelope::row(relation, tuple, before).map_err(stop("read a change"));
        let before = old.map(|tuple| row(tuple, None)).transpose()?;
        let after = new.map(|tuple| row(tuple, before.as_ref())).transpose()?;
        let change = match (before, after) {
            (before, Some(after)) if is_update => RowChange::Update { before, after },
            (_, Some(after)) => RowChange::Insert(after),
            (Some(before), None) => RowChange::Delete(before),
            (None, None) => {
                let lost = envelope::EnvelopeError::NoOldRow(relation.table.clone());
                return Err(stop("capture a delete")(lost));
            }
        };
        let origin = self.origin(&relation.schema);
        for record in envelope::records(table, &origin, change).map_err(stop("capture a change"))? {
            self.sink.send(&record).map_err(Failure::Kafka)?;
        }
        Ok(())
    }

    /// Deletes every row that the topic holds: up to here it mirrors the table, once our own records are
    /// visible.
    async fn truncate(&mut self, relation_ids: &[u32]) -> Result<(), Failure> {
        for id in relation_ids {
            let relation = self.relation(*id)?.clone();
            let Some(table) = table(&relation) else { continue };
            if self.sink.is_open() {
                self.commit().await?;
            }
            let read = topic::live(&self.context.config.kafka, table.topic.name);
            let live = self.context.patiently(read).await?.map_err(Failure::Kafka)?;
            for (key, value) in live {
                let origin = self.origin(&relation.schema);
                for record in envelope::forget(table, &origin, key, &value) {
                    self.sink.send(&record).map_err(Failure::Kafka)?;
                }
                if self.sink.is_full() {
                    self.commit().await?;
                }
            }
        }
        Ok(())
    }

    fn origin<'a>(&'a self, schema: &'a str) -> Origin<'a> {
        let lsn = self.receiving.map_or(0, |receiving| receiving.commit_lsn.as_u64());
        Origin {
            db: &self.context.database,
            schema,
            lsn,
            snapshot: false,
            ts_ms: Timestamp::now().as_micros() / 1_000,
        }
    }

    fn relation(&self, id: u32) -> Result<&Relation, Failure> {
        let relation = self.relations.get(&id);
        relation
            .ok_or_else(|| Failure::Stop(anyhow::anyhow!("a change names a table that was not described")))
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        let mark = self.mark();
        self.context.patiently(self.sink.commit(mark.as_ref())).await?.map_err(Failure::Kafka)?;
        self.confirm();
        Ok(())
    }

    /// Confirms WAL that holds no change of ours, once the mark is moved.
    async fn let_go(&mut self) -> Result<(), Failure> {
        let Some(end) = self.foreign.take() else { return Ok(()) };
        let mark = self.mark_at(end);
        self.context.patiently(self.sink.commit(Some(&mark))).await?.map_err(Failure::Kafka)?;
        self.unconfirmed = None;
        self.source.update_applied_lsn(end);
        self.let_go = Instant::now();
        Ok(())
    }

    /// Returns the mark that the topics have once the open Kafka transaction is committed; none when it ends
    /// within the first transaction of the database that it holds.
    fn mark(&self) -> Option<Mark> {
        self.unconfirmed.map(|Unconfirmed { end, .. }| self.mark_at(end))
    }

    fn mark_at(&self, end: Lsn) -> Mark {
        Mark { wal: self.wal.clone(), slot: self.context.config.slot.clone(), lsn: end.as_u64() }
    }

    /// Confirms the last whole database transaction; everything before it is durable in Kafka.
    fn confirm(&mut self) {
        let Some(Unconfirmed { end, first_commit_micros }) = self.unconfirmed.take() else { return };
        self.source.update_applied_lsn(end);
        let micros = Timestamp::now().as_micros().saturating_sub(first_commit_micros).max(0);
        self.context
            .metrics
            .capture_seconds
            .observe(Duration::from_micros(micros.unsigned_abs()).as_secs_f64());
    }
}

fn table(relation: &Relation) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == relation.table)
}

fn ended(reason: &'static str) -> Failure {
    database("read the stream")(PgWireError::Protocol(reason.to_owned()))
}

//! Answers that are written while they are read: a portal of the database, a few parts in memory, a client
//! that may leave.

use crate::format::Writer;
use actix_web::HttpResponse;
use actix_web::web::Bytes;
use chassis::http::Problem;
use chassis::postgres::{Select, Settings};
use deadpool_postgres::{Object, Pool};
use futures::{StreamExt as _, stream};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::Row;

/// Most rows of a stream. One that would have more breaks off, so that nobody takes a part for the whole.
pub(crate) const ROWS_MAX: i64 = 1_000_000;
/// Size from which a part is sent.
const PART_BYTES: usize = 64 * 1024;
/// Parts that wait for the client.
const PARTS_MAX: usize = 2;
/// Rows of the first fetch, and of any: a reading may carry attributes of many KiB.
const FETCH_FIRST: i32 = 64;
const FETCH_MAX: i32 = 8_192;
/// Size that a fetch aims at.
const FETCH_BYTES: usize = 1024 * 1024;
/// Longest wait for a stream before this one to end.
const PERMIT_WAIT: Duration = Duration::from_secs(5);
/// Longest stream: a slow client holds a connection no longer.
const STREAM_MAX: Duration = Duration::from_secs(600);
/// Longest wait for the server to hear that nobody waits any more.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// Rows of one kind, from the database to an answer.
pub(crate) trait Sheet: Send + 'static {
    /// Returns the statement that reads them.
    fn select(&self) -> Select<'_>;
    /// Takes the next row of the database.
    fn push(&mut self, row: Row) -> Result<(), Problem>;
    /// Takes the end of them, and says whether rows of the answer may follow.
    fn close(&mut self) -> bool;
    /// Goes on to the next row of the answer, if what was taken is enough to know it.
    fn advance(&mut self) -> bool;
    /// Writes the row that it stands on.
    fn write(&self, writer: &mut Writer) -> Result<(), Problem>;
    /// Returns the cursor behind it.
    fn cursor(&self) -> String;
}

/// How an answer ends.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The cursor behind the last row that the page has room for.
    cursor: Option<String>,
    /// Whether there is a row after it.
    is_cut: bool,
}

impl Ending {
    /// Writes what the sheet knows by now, up to the limit of rows and to a part of that size, and says
    /// whether there is room for more rows.
    pub(crate) fn write(
        &mut self,
        sheet: &mut impl Sheet,
        writer: &mut Writer,
        limit: usize,
        part_bytes: usize,
    ) -> Result<bool, Problem> {
        while writer.waiting() < part_bytes && sheet.advance() {
            if writer.rows() == limit {
                self.is_cut = true;
                return Ok(false);
            }
            sheet.write(writer)?;
            if writer.rows() == limit {
                self.cursor = Some(sheet.cursor());
            }
        }
        Ok(true)
    }

    /// Says whether there was more than there is room for.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the cursor of the next page, when there is one.
    pub(crate) fn next(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|_| self.is_cut)
    }
}

/// Streams that may be open at once: half of the connections, so that short questions find one.
#[derive(Clone)]
pub(crate) struct Streams {
    database: Settings,
    permits: Arc<Semaphore>,
}

impl Streams {
    /// Makes room for streams over the database.
    pub(crate) fn new(database: Settings) -> Self {
        let permits = (database.connections_max() / 2).max(1);
        Self { database, permits: Arc::new(Semaphore::new(permits)) }
    }

    /// Returns the database, to lease a connection of.
    pub(crate) fn database(&self) -> &Settings {
        &self.database
    }

    /// Answers with a sheet of up to `limit` rows. A failure before the first part is a problem; a later one
    /// breaks the answer off.
    ///
    /// # Errors
    /// The problem of the database; 503 when too many streams are open.
    pub(crate) async fn answer(
        &self,
        pool: &Pool,
        sheet: impl Sheet,
        writer: Writer,
        limit: i64,
    ) -> Result<HttpResponse, Problem> {
        let permit = timeout(PERMIT_WAIT, self.permits.clone().acquire_owned()).await;
        let busy = || Problem::busy("too many streams are open; try again", Duration::from_secs(2));
        let permit = permit.ok().and_then(Result::ok).ok_or_else(busy)?;
        let content_type = writer.content_type();
        let (sender, mut parts) = channel(PARTS_MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        tokio::spawn(send(self.database.clone(), pool.clone(), sheet, writer, limit, sender, permit));
        let gone = || Problem::internal(&"a stream ended without a word");
        let first = parts.recv().await.ok_or_else(gone)??;
        let parts = stream::once(async { Ok(first) }).chain(stream::unfold(parts, next_part));
        Ok(HttpResponse::Ok().content_type(content_type).streaming(parts))
    }
}

/// A connection that goes back to the pool when its statement is over. When nobody waits for that any more,
/// neither may the server go on, nor may the next one wait behind it: the statement is cancelled, and the
/// connection closed.
pub(crate) struct Lease {
    client: Option<Object>,
    database: Settings,
}

impl Lease {
    /// Takes a connection.
    pub(crate) async fn of(pool: &Pool, database: &Settings) -> Result<Self, Problem> {
        Ok(Self { client: Some(pool.get().await?), database: database.clone() })
    }

    /// Returns the connection.
    pub(crate) fn client(&mut self) -> &mut Object {
        self.client.as_mut().expect("it is there until the end of the lease")
    }

    /// Gives it back.
    pub(crate) fn end(mut self) {
        drop(self.client.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let (database, token) = (self.database.clone(), client.cancel_token());
        drop(Object::take(client));
        tokio::spawn(async move {
            let cancelled = timeout(CANCEL_WAIT, database.cancel(&token)).await;
            if !cancelled.is_ok_and(|cancelled| cancelled.is_ok()) {
                tracing::warn!("the database does not hear that nobody waits for a statement");
            }
        });
    }
}

/// Sends all of it, or stops when the client has left.
async fn send(
    database: Settings,
    pool: Pool,
    sheet: impl Sheet,
    writer: Writer,
    limit: usize,
    sender: Sender<Result<Bytes, Problem>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut lease = match Lease::of(&pool, &database).await {
        Ok(lease) => lease,
        Err(problem) => return drop(sender.send(Err(problem)).await),
    };
    let sending = timeout(STREAM_MAX, send_parts(lease.client(), sheet, writer, limit, &sender));
    let outcome = tokio::select! {
        outcome = sending => outcome.unwrap_or_else(|_| Err(too_slow())),
        () = sender.closed() => return,
    };
    match outcome {
        Ok(()) => lease.end(),
        Err(problem) => drop(sender.send(Err(problem)).await),
    }
}

fn too_slow() -> Problem {
    tracing::info!("a stream took too long");
    Problem::busy("the stream took too long; ask for less", Duration::from_secs(2))
}

async fn next_part(
    mut parts: Receiver<Result<Bytes, Problem>>,
) -> Option<(io::Result<Bytes>, Receiver<Result<Bytes, Problem>>)> {
    // The cause of a problem was logged where it was met.
    let part = parts.recv().await?.map_err(|problem| io::Error::other(problem.detail));
    Some((part, parts))
}

/// Reads and sends all of it. A part that cannot be sent has nobody who waits for it.
async fn send_parts(
    client: &mut Object,
    mut sheet: impl Sheet,
    mut writer: Writer,
    limit: usize,
    sender: &Sender<Result<Bytes, Problem>>,
) -> Result<(), Problem> {
    let transaction = client.build_transaction().read_only(true).start().await?;
    let portal = {
        let select = sheet.select();
        let (params, types): (Vec<_>, Vec<_>) = select.params().iter().cloned().unzip();
        let statement = transaction.prepare_typed(select.text(), &types).await?;
        transaction.bind(&statement, &params).await?
    };
    let mut ending = Ending::default();
    let (mut fetch, mut has_more) = (FETCH_FIRST, true);
    'rows: while has_more {
        let rows = transaction.query_portal(&portal, fetch).await?;
        has_more = i32::try_from(rows.len()).is_ok_and(|read| read == fetch);
        let bytes: usize = rows.iter().map(Row::raw_size_bytes).sum();
        for row in rows {
            sheet.push(row)?;
            if !write_known(&mut ending, &mut sheet, &mut writer, limit, sender).await? {
                break 'rows;
            }
        }
        fetch = next_fetch(fetch, bytes);
    }
    if !ending.is_cut && sheet.close() {
        write_known(&mut ending, &mut sheet, &mut writer, limit, sender).await?;
    }
    if ending.is_cut && i64::try_from(limit).is_ok_and(|limit| limit == ROWS_MAX) {
        tracing::info!("a stream has too many rows");
        return Err(Problem::busy(format!("there are over {ROWS_MAX} rows; ask for less"), Duration::ZERO));
    }
    let _ = sender.send(Ok(writer.end(ending.next()))).await;
    transaction.commit().await?;
    Ok(())
}

/// Writes and sends what the sheet knows by now, and says whether there is room for more.
async fn write_known(
    ending: &mut Ending,
    sheet: &mut impl Sheet,
    writer: &mut Writer,
    limit: usize,
    sender: &Sender<Result<Bytes, Problem>>,
) -> Result<bool, Problem> {
    loop {
        let has_room = ending.write(sheet, writer, limit, PART_BYTES)?;
        if writer.waiting() < PART_BYTES {
            return Ok(has_room);
        }
        let _ = sender.send(Ok(writer.take())).await;
        if !has_room {
            return Ok(false);
        }
    }
}

/// Returns how many rows to fetch next, so that they are about as many bytes as one fetch should be.
fn next_fetch(rows: i32, bytes: usize) -> i32 {
    let rows_max = usize::try_from(FETCH_MAX).unwrap_or(1);
    let row_bytes = bytes / usize::try_from(rows).unwrap_or(1).max(1) + 1;
    i32::try_from((FETCH_BYTES / row_bytes).clamp(1, rows_max)).unwrap_or(FETCH_MAX)
}

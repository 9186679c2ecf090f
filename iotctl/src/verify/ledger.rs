//! What Kafka holds, compared with what the table holds: acknowledged means stored, once.
//!
//! The window selects records by their Kafka timestamps: each partition from its first record at or after
//! `from` up to its first at or after `to`. Only committed records are read. They are looked up by key in
//! chunks, so memory is bounded. Not missing are: what command-svc has not committed yet (pending), dead
//! letters, and what is past retention.
//!
//! Double means one event and metric under two keys, which the unique key cannot prevent. It is asked of the
//! rows that the gateway received in the window, and reads the whole table: no index leads from an event to
//! its rows.

use super::{Findings, Window, kept_from};
use crate::progress::Progress;
use anyhow::{Context as _, Result, ensure};
use chassis::kafka::{Settings as Broker, headers_of};
use futures::TryStreamExt as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::dead_letter::DeadLetter;
use schema::{ReadingCreatedEvent, Timestamp, topics};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::task::block_in_place;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// The group whose commits say what must be stored.
const GROUP: &str = "command-svc";
/// Longest time for the broker's answer, and between two records.
const BROKER_WAIT: Duration = Duration::from_secs(30);
/// Rows that are looked up by one statement.
const CHUNK_ROWS: usize = 10_000;
/// Dead letters whose places are held in memory, 16 bytes each; with more of them something else is wrong.
const DEAD_LETTERS_MAX: usize = 4_000_000;

const ABSENT: &str = "
    SELECT i.place
    FROM unnest($1::int8[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[])
      AS i(place, sensor_id, metric, reading_at, event_id)
    LEFT JOIN readings_ingestion AS r
      ON r.sensor_id = i.sensor_id AND r.metric = i.metric AND r.reading_at = i.reading_at AND r.event_id = i.event_id
    WHERE r.sensor_id IS NULL
    ORDER BY i.place";

/// Settings of the planner for chunks, which are small beside the table: each row is looked up by its key, in
/// its partition alone. Servers without these settings have planners of their own.
const LOOK_UP_BY_KEY: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off";

const DOUBLE: &str = "
    SELECT event_id, metric, min(sensor_id), count(*)
    FROM readings_ingestion
    WHERE received_at >= $1 AND received_at < $2
    GROUP BY event_id, metric
    HAVING count(*) > 1
    ORDER BY event_id, metric";

/// Says what was compared, in rows: one for each metric value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Records that were read.
    pub records: u64,
    /// Rows that they ought to be.
    pub rows: u64,
    /// Rows that are not there, and records that are neither a reading nor a dead letter.
    pub missing: u64,
    /// Rows that are not there yet: command-svc has not committed them.
    pub pending: u64,
    /// Rows that are not there because their record is a dead letter.
    pub dead_lettered: u64,
    /// Rows that are not there because retention dropped them.
    pub past_retention: u64,
    /// Events that have one metric in several rows.
    pub double: u64,
}

impl Outcome {
    /// Says whether everything acknowledged is stored, and stored once.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing == 0 && self.double == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, rows, missing, pending, dead_lettered, past_retention, double } = self;
        write!(
            f,
            "{records} records, {rows} rows: {missing} missing, {double} double \
             ({pending} pending, {dead_lettered} dead-lettered, {past_retention} past retention)"
        )
    }
}

/// One row that ought to be there.
struct Expected {
    sensor_id: String,
    metric: String,
    reading_at: Timestamp,
    event_id: Uuid,
    partition: i32,
    offset: i64,
}

/// The facts that are known before the first record is read.
struct Known {
    committed: BTreeMap<i32, i64>,
    dead_letters: HashSet<(i32, i64)>,
    kept_from: Option<Timestamp>,
}

impl Known {
    fn is_pending(&self, partition: i32, offset: i64) -> bool {
        self.committed.get(&partition).is_none_or(|next| offset >= *next)
    }
}

/// Compares every record of the window with its rows and reports what is missing and what is double.
///
/// # Errors
/// Kafka or the database refuses or goes away.
pub async fn compare(
    client: &Client,
    broker: &Broker,
    window: Window,
    progress: &Progress,
    findings: &Findings,
) -> Result<Outcome> {
    let _ = client.batch_execute(LOOK_UP_BY_KEY).await;
    let mut outcome = Outcome::default();
    let topic = broker.topic(topics::READINGS.name);
    // In this order: what is committed by now has its dead letter by now.
    let reader = Reader::open(broker, &topic)?;
    let committed = reader.committed()?;
    let mut dead_letters = HashSet::new();
    progress
        .step("read dead letters", async {
            let letters = Reader::open(broker, &broker.topic(topics::READING_DLQ.name))?;
            letters
                .read(window.from, None, async |record| {
                    dead_letters.extend(source_of(record, &topic));
                    ensure!(dead_letters.len() <= DEAD_LETTERS_MAX, "too many dead letters to compare");
                    Ok(())
                })
                .await?;
            Ok(format!("{}", dead_letters.len()))
        })
        .await?;
    let known = Known { committed, dead_letters, kept_from: kept_from(client).await? };
    progress
        .step("look up what Kafka holds", async {
            let mut chunk = Vec::new();
            reader
                .read(window.from, Some(window.to), async |record| {
                    outcome.records += 1;
                    expect_rows(record, &known, &mut chunk, &mut outcome, findings);
                    if chunk.len() >= CHUNK_ROWS {
                        look_up(client, &known, &mut chunk, &mut outcome, findings).await?;
                    }
                    Ok(())
                })
                .await?;
            look_up(client, &known, &mut chunk, &mut outcome, findings).await?;
            Ok(format!("{} records, {} rows, {} missing", outcome.records, outcome.rows, outcome.missing))
        })
        .await?;
    progress
        .step("look for events stored twice", async {
            outcome.double = find_doubles(client, window, findings).await?;
            Ok(format!("{} double", outcome.double))
        })
        .await?;
    Ok(outcome)
}

/// Returns where a dead letter's record stood, if it was one of the readings topic.
fn source_of(letter: &BorrowedMessage<'_>, topic: &str) -> Option<(i32, i64)> {
    DeadLetter::read(headers_of(letter)).ok()?.origin.filter(|origin| origin.topic == topic)?.place
}

fn expect_rows(
    record: &BorrowedMessage<'_>,
    known: &Known,
    chunk: &mut Vec<Expected>,
    outcome: &mut Outcome,
    findings: &Findings,
) {
    let (partition, offset) = (record.partition(), record.offset());
    let reading =
        record.payload().and_then(|value| serde_json::from_slice::<ReadingCreatedEvent>(value).ok());
    let Some(reading) = reading.filter(|reading| !reading.values.is_empty()) else {
        if known.dead_letters.contains(&(partition, offset)) {
            outcome.dead_lettered += 1;
        } else if known.is_pending(partition, offset) {
            outcome.pending += 1;
        } else {
            outcome.missing += 1;
            let line =
                format!("missing: partition {partition} offset {offset} is no reading and no dead letter");
            let place =
                json!({"partition": partition, "offset": offset, "reason": "no reading and no dead letter"});
            findings.found(&line, &json!({"missing": place}));
        }
        return;
    };
    outcome.rows += reading.values.len() as u64;
    let row = |metric: &String| Expected {
        sensor_id: reading.sensor_id.clone(),
        metric: metric.clone(),
        reading_at: reading.reading_at,
        event_id: reading.event_id,
        partition,
        offset,
    };
    chunk.extend(reading.values.keys().map(row));
}

/// Looks the chunk up, reports what is missing, and empties it.
async fn look_up(
    client: &Client,
    known: &Known,
    chunk: &mut Vec<Expected>,
    outcome: &mut Outcome,
    findings: &Findings,
) -> Result<()> {
    let rows = std::mem::take(chunk);
    let places: Vec<i64> = (0_i64..).take(rows.len()).collect();
    let sensors: Vec<&str> = rows.iter().map(|row| row.sensor_id.as_str()).collect();
    let metrics: Vec<&str> = rows.iter().map(|row| row.metric.as_str()).collect();
    let instants: Vec<OffsetDateTime> = rows.iter().map(|row| row.reading_at.into()).collect();
    let events: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
    let parameters: [&(dyn ToSql + Sync); 5] = [&places, &sensors, &metrics, &instants, &events];
    let absent = client.query(ABSENT, &parameters).await.context("look up rows")?;
    for row in absent {
        let Some(row) = usize::try_from(row.get::<_, i64>(0)).ok().and_then(|place| rows.get(place)) else {
            continue;
        };
        if known.dead_letters.contains(&(row.partition, row.offset)) {
            outcome.dead_lettered += 1;
        } else if known.is_pending(row.partition, row.offset) {
            outcome.pending += 1;
        } else if known.kept_from.is_some_and(|kept| row.reading_at < kept) {
            outcome.past_retention += 1;
        } else {
            outcome.missing += 1;
            let Expected { sensor_id, metric, reading_at, event_id, partition, offset } = row;
            let line = format!(
                "missing: event {event_id} of {sensor_id} {metric} at {reading_at}, partition {partition} offset {offset}"
            );
            let json = json!({"missing": {
                "eventId": event_id, "sensorId": sensor_id, "metric": metric, "readingAt": reading_at,
                "partition": partition, "offset": offset,
            }});
            findings.found(&line, &json);
        }
    }
    Ok(())
}

async fn find_doubles(client: &Client, window: Window, findings: &Findings) -> Result<u64> {
    let (from, to) = (OffsetDateTime::from(window.from), OffsetDateTime::from(window.to));
    let parameters: [&(dyn ToSql + Sync); 2] = [&from, &to];
    let mut rows = pin!(client.query_raw(DOUBLE, parameters).await.context("look for doubles")?);
    let mut double = 0;
    while let Some(row) = rows.try_next().await.context("look for doubles")? {
        double += 1;
        let (event, metric): (Uuid, &str) = (row.get(0), row.get(1));
        let (sensor, count): (&str, i64) = (row.get(2), row.get(3));
        let line = format!("double: event {event} of {sensor} {metric} has {count} rows");
        let json = json!({"double": {"eventId": event, "sensorId": sensor, "metric": metric, "rows": count}});
        findings.found(&line, &json);
    }
    Ok(double)
}

/// Reads one topic without a group membership and without committing anything.
struct Reader {
    consumer: StreamConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl Reader {
    fn open(broker: &Broker, topic: &str) -> Result<Self> {
        let consumer: StreamConsumer = broker
            .consumer(GROUP)
            .set("enable.partition.eof", "true")
            .create()
            .context("make a Kafka client")?;
        let metadata = block_in_place(|| consumer.fetch_metadata(Some(topic), BROKER_WAIT));
        let metadata = metadata.context("ask for partitions")?;
        let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let partitions: Vec<i32> = found.map(|partition| partition.id()).collect();
        ensure!(!partitions.is_empty(), "there is no topic {topic}");
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// Returns, for each partition that the group has committed, the first offset that it has not.
    fn committed(&self) -> Result<BTreeMap<i32, i64>> {
        let mut wanted = TopicPartitionList::new();
        for partition in &self.partitions {
            wanted.add_partition(&self.topic, *partition);
        }
        let committed = block_in_place(|| self.consumer.committed_offsets(wanted, BROKER_WAIT));
        Ok(offsets(&committed.context("ask for committed offsets")?))
    }

    /// Finds, for each partition, the first record at or after an instant; partitions without one are left
    /// out.
    fn first_at(&self, instant: Timestamp) -> Result<BTreeMap<i32, i64>> {
        let mut wanted = TopicPartitionList::new();
        let millis = instant.as_micros().div_euclid(1_000).max(0);
        for partition in &self.partitions {
            wanted.add_partition_offset(&self.topic, *partition, Offset::Offset(millis))?;
        }
        let found = block_in_place(|| self.consumer.offsets_for_times(wanted, BROKER_WAIT));
        Ok(offsets(&found.context("ask for offsets by time")?))
    }

    /// Feeds the records of a time to `each`; without an end, those that are there.
    async fn read(
        self,
        from: Timestamp,
        to: Option<Timestamp>,
        mut each: impl AsyncFnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut open = self.first_at(from)?;
        let ends = to.map(|to| self.first_at(to)).transpose()?.unwrap_or_default();
        open.retain(|partition, first| ends.get(partition).is_none_or(|end| *first < *end));
        let mut assignment = TopicPartitionList::new();
        for (partition, first) in &open {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(*first))?;
        }
        self.consumer.assign(&assignment).context("assign partitions")?;
        while !open.is_empty() {
            let received = tokio::time::timeout(BROKER_WAIT, self.consumer.recv()).await;
            match received.context("wait for a record")? {
                Ok(record) => {
                    let partition = record.partition();
                    if ends.get(&partition).is_some_and(|end| record.offset() >= *end) {
                        open.remove(&partition);
                    } else if open.contains_key(&partition) {
                        each(&record).await?;
                    }
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    open.remove(&partition);
                }
                Err(error) => return Err(error).context("read records"),
            }
        }
        Ok(())
    }
}

fn offsets(list: &TopicPartitionList) -> BTreeMap<i32, i64> {
    let elements = list.elements();
    elements
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        })
        .collect()
}

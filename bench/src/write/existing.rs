//! command-svc on tables that hold rows already, and queries of the read model meanwhile.

use super::contender::Contender;
use super::{Stage, drain, memory, report, service};
use crate::readings::{self, METRIC};
use crate::server::Database;
use crate::stats::percentile;
use anyhow::Result;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_postgres::{Client, Statement};

/// Sensors that have a past of 30 days in the read model: enough that a query seldom finds another's pages.
const PAST_SENSORS: i64 = 1_000;
/// Rows that are prepared in memory at a time: less than a gigabyte.
const FILL_ROWS: i64 = 5_000_000;
/// Queries without anything beside them.
const QUERIES_ALONE: usize = 300;
/// Between two queries: few enough to be guests.
const QUERY_PAUSE: Duration = Duration::from_millis(10);

/// As many hours as an analyst asks for most.
const QUERY: &str = "
    SELECT bucket, avg, min, max, count FROM sensor_reading_hourly_aggregates
    WHERE sensor_id = $1 AND metric = $2 AND bucket >= $3 AND bucket < $3 + interval '30 days'
    ORDER BY bucket";
/// In the order in which time would have written them.
const PAST: &str = "
    INSERT INTO sensor_reading_hourly_aggregates (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum)
    SELECT hour, 'thermostat-' || lpad(sensor::text, 5, '0'), $1, 'THERMOSTAT', 'zone-00', 15, 25, 60, 1200
    FROM generate_series($2::timestamptz - interval '30 days', $2::timestamptz - interval '1 hour', interval '1 hour') hour,
         generate_series(0, $3::bigint - 1) sensor
    ORDER BY hour, sensor";

/// Drains into a table that holds `existing` rows.
pub(super) async fn measure(stage: &Stage, existing: i64) -> Result<()> {
    let rows = stage.options.rows;
    let database = stage.server.create("existing", &stage.workload, -existing..rows).await?;
    let mut next = -existing;
    while next < 0 {
        let end = (next + FILL_ROWS).min(0);
        memory::copy(stage, &database, next..end).await?;
        next = end;
        stage.report.progress(&format!("filling: {} of {existing} rows", existing + next));
    }
    if existing > 0 {
        // Autovacuum would have done this along the way; it may not fall into the measurement.
        database.connect().await?.batch_execute("VACUUM ANALYZE readings_ingestion").await?;
        stage.server.checkpoint().await?;
    }
    let run = service::drain(stage, Contender::Service, &database).await?;
    database.ensure_rows(existing + rows, false).await?;
    report::existing(stage, existing, &run);
    stage.server.forget(database).await
}

/// Asks for one sensor's 30 days of hours, first alone and then while the topic is drained.
pub(super) async fn measure_queries(stage: &Stage) -> Result<()> {
    let database = stage.server.create("queries", &stage.workload, 0..stage.options.rows).await?;
    let client = database.connect().await?;
    client.execute(PAST, &[&METRIC, &OffsetDateTime::from(readings::start()), &PAST_SENSORS]).await?;
    client.batch_execute("VACUUM ANALYZE sensor_reading_hourly_aggregates").await?;
    stage.server.checkpoint().await?;
    let query = client.prepare(QUERY).await?;
    let mut alone = Vec::new();
    for number in 0..QUERIES_ALONE {
        alone.push(ask(stage, &client, &query, number).await?);
        sleep(QUERY_PAUSE).await;
    }
    let (beside, rate) = ask_while_draining(stage, &client, &query, &database).await?;
    for (when, measured) in [("alone", &alone), ("while command-svc drains", &beside)] {
        let at = |fraction| percentile(measured, fraction).unwrap_or(f64::NAN);
        report::queries(stage, when, measured.len(), at(0.5), at(0.99));
    }
    stage.report.progress(&format!("drained {rate:.0} rows/s beside the queries"));
    stage.server.forget(database).await
}

async fn ask_while_draining(
    stage: &Stage,
    client: &Client,
    query: &Statement,
    database: &Database,
) -> Result<(Vec<f64>, f64)> {
    let (mut service, group) = service::start(stage, Contender::Service, database, &stage.readings)?;
    let mut measured = Vec::new();
    let run = {
        let mut draining = std::pin::pin!(drain::watch(&mut service, &group, stage, stage.options.rows));
        loop {
            tokio::select! {
                run = &mut draining => break run?,
                asked = ask(stage, client, query, measured.len()) => measured.push(asked?),
            }
            tokio::select! {
                run = &mut draining => break run?,
                () = sleep(QUERY_PAUSE) => {}
            }
        }
    };
    service::stop(service, group).await?;
    Ok((measured, run.rows_per_second()))
}

/// Asks once and returns the milliseconds to the last row.
async fn ask(stage: &Stage, client: &Client, query: &Statement, number: usize) -> Result<f64> {
    let sensors = usize::try_from(PAST_SENSORS)?.min(stage.workload.sensors().len());
    // Any order without a pattern; 619 is a prime.
    let sensor = &stage.workload.sensors()[number * 619 % sensors];
    let from = OffsetDateTime::from(readings::start()) - time::Duration::days(30);
    let started = Instant::now();
    client.query(query, &[&sensor.sensor_id, &METRIC, &from]).await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

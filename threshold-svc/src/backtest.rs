//! `POST /api/v1/thresholds/backtest`: what a threshold would have said of the readings that are stored.
//!
//! It changes nothing. The evaluation is that of alerting-svc (ADR 0019).

mod asked;
mod report;
mod run;
mod store;

use crate::metrics::Metrics;
use crate::routes::READERS;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use asked::Asked;
use chassis::auth::Caller;
use chassis::http::{Fields, Problem};
use deadpool_postgres::Pool;
use report::Report;
use schema::Timestamp;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Backtests that one instance runs at a time: each keeps the database and one of our threads busy.
const AT_A_TIME_MAX: usize = 2;
/// Time after which a caller that finds no place may come again.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// The places for backtests, and what is counted of them.
pub(crate) struct Backtests {
    places: Semaphore,
    metrics: Metrics,
}

impl Backtests {
    /// Begins without any.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { places: Semaphore::const_new(AT_A_TIME_MAX), metrics }
    }

    fn begin(&self) -> Result<UnderWay<'_>, Problem> {
        let Ok(place) = self.places.try_acquire() else {
            self.metrics.backtests.with_label_values(&["busy"]).inc();
            return Err(Problem::busy("other backtests are under way", BUSY_WAIT));
        };
        self.metrics.backtests_under_way.inc();
        Ok(UnderWay { metrics: &self.metrics, outcome: "unfinished", _place: place })
    }
}

/// One backtest, until it is dropped: with its caller, if that leaves.
struct UnderWay<'a> {
    metrics: &'a Metrics,
    outcome: &'static str,
    _place: SemaphorePermit<'a>,
}

impl UnderWay<'_> {
    fn end(mut self, report: &Report) {
        self.outcome = if report.truncated { "truncated" } else { "complete" };
        self.metrics.backtest_readings.inc_by(report.readings);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.metrics.backtests_under_way.dec();
        self.metrics.backtests.with_label_values(&[self.outcome]).inc();
    }
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    from: Timestamp,
    to: Timestamp,
    #[serde(flatten)]
    report: Report,
}

/// Tests a threshold that is not stored, one that is, or the one in the place of the other.
pub(crate) async fn backtest(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
    backtests: Data<Backtests>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let asked = Asked::read(Fields::of_body(&request, body).await?, Timestamp::now())?;
    let under_way = backtests.begin()?;
    let stored = match asked.id {
        Some(id) => Some(crate::store::find(&pool, id).await?),
        None => None,
    };
    let tested = asked.with(stored.as_ref())?;
    let report = store::run(&pool, &tested).await?;
    under_way.end(&report);
    Ok(HttpResponse::Ok().json(Answer { from: tested.range.from, to: tested.range.to, report }))
}

//! Episodes of alerts, with the acknowledgement and the silence that they have.

use crate::query::Episodes;
use chassis::http::{KeysetListing, Problem};
use deadpool_postgres::Pool;
use schema::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// An episode, from its first alert to its last.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Episode {
    episode_id: Uuid,
    threshold_id: Uuid,
    threshold_version: i64,
    sensor_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    metric: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    severity: String,
    zone_id: String,
    device_type: String,
    status: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closing_reason: Option<String>,
    bound: Bound,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_first: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_last: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_max: Option<f64>,
    opened_at: Timestamp,
    last_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<Timestamp>,
    occurrences: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The silence that covered its newest alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    silenced_by: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledgement: Option<Acknowledgement>,
    /// The silence that covers it now; of a closed one the silence that covered its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    silence: Option<Silence>,
}

/// A limit, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Bound {
    limit: String,
    value: f64,
}

/// Says who has taken note of an episode.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement {
    note: String,
    acknowledged_by: String,
    acknowledged_at: Timestamp,
}

/// Says why nobody is told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    silence_id: Uuid,
    ends_at: Timestamp,
    comment: String,
    created_by: String,
}

/// Of several silences that cover an open episode, the one that ends last says when it will be heard again.
macro_rules! joined {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM alert_episodes e LEFT JOIN alert_acknowledgements a ON a.episode_id = e.episode_id \
             LEFT JOIN LATERAL \
               (SELECT o.silence_id, o.ends_at, o.comment, o.created_by FROM silences o \
                WHERE e.status = 'closed' AND o.silence_id = e.silenced_by \
                   OR e.status = 'open' AND o.starts_at <= now() AND now() < o.ends_at \
                      AND coalesce(o.sensor_id, e.sensor_id) = e.sensor_id \
                      AND coalesce(o.device_type, e.device_type) = e.device_type \
                      AND coalesce(o.zone_id, e.zone_id) = e.zone_id \
                      AND coalesce(o.metric, e.metric) = e.metric \
                      AND coalesce(o.severity, e.severity) = e.severity \
                ORDER BY o.ends_at DESC, o.silence_id LIMIT 1) s ON true"
        )
    };
}

macro_rules! filtered {
    ($columns:literal) => {
        concat!(
            joined!($columns),
            " WHERE ($1 IS NULL OR e.status = $1) AND ($2 IS NULL OR e.sensor_id = $2) \
             AND ($3 IS NULL OR e.zone_id = $3) AND ($4 IS NULL OR e.device_type = $4) \
             AND ($5 IS NULL OR e.metric = $5) AND ($6 IS NULL OR e.severity = $6) \
             AND ($7 IS NULL OR e.threshold_id = $7) \
             AND ($8 IS NULL OR e.opened_at >= $8) AND ($9 IS NULL OR e.opened_at < $9) \
             AND ($10 IS NULL OR (a.episode_id IS NOT NULL) = $10) \
             AND ($11 IS NULL OR $11 = (s.silence_id IS NOT NULL \
                                        OR e.status = 'closed' AND e.silenced_by IS NOT NULL))"
        )
    };
}

macro_rules! columns {
    ($macro:ident) => {
        $macro!(
            "e.*, a.note, a.acknowledged_by, a.acknowledged_at, \
             s.silence_id, s.ends_at, s.comment, s.created_by"
        )
    };
}

const COUNT: &str = filtered!("count(*)");
const LIST: &str = concat!(
    columns!(filtered),
    " AND ($12 IS NULL OR (e.opened_at, e.episode_id) < ($12, $13)) \
     ORDER BY e.opened_at DESC, e.episode_id DESC LIMIT $14"
);
const FIND: &str = concat!(columns!(joined), " WHERE e.episode_id = $1");

fn read(row: &Row) -> Result<Episode, Problem> {
    let instant = |name: &str| Ok::<_, Problem>(row.try_get::<_, OffsetDateTime>(name)?.into());
    let instant_optional =
        |name: &str| Ok::<_, Problem>(row.try_get::<_, Option<OffsetDateTime>>(name)?.map(Timestamp::from));
    let acknowledgement = match instant_optional("acknowledged_at")? {
        Some(acknowledged_at) => Some(Acknowledgement {
            note: row.try_get("note")?,
            acknowledged_by: row.try_get("acknowledged_by")?,
            acknowledged_at,
        }),
        None => None,
    };
    let silence = match row.try_get("silence_id")? {
        Some(silence_id) => Some(Silence {
            silence_id,
            ends_at: instant("ends_at")?,
            comment: row.try_get("comment")?,
            created_by: row.try_get("created_by")?,
        }),
        None => None,
    };
    Ok(Episode {
        episode_id: row.try_get("episode_id")?,
        threshold_id: row.try_get("threshold_id")?,
        threshold_version: row.try_get("threshold_version")?,
        sensor_id: row.try_get("sensor_id")?,
        display_name: row.try_get("display_name")?,
        metric: row.try_get("metric")?,
        unit: row.try_get("unit")?,
        severity: row.try_get("severity")?,
        zone_id: row.try_get("zone_id")?,
        device_type: row.try_get("device_type")?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        closing_reason: row.try_get("closing_reason")?,
        bound: Bound { limit: row.try_get("bound_limit")?, value: row.try_get("bound_value")? },
        value_first: row.try_get("value_first")?,
        value_last: row.try_get("value_last")?,
        value_min: row.try_get("value_min")?,
        value_max: row.try_get("value_max")?,
        opened_at: instant("opened_at")?,
        last_at: instant("last_at")?,
        closed_at: instant_optional("closed_at")?,
        occurrences: row.try_get("occurrences")?,
        summary: row.try_get("summary")?,
        description: row.try_get("description")?,
        silenced_by: row.try_get("silenced_by")?,
        acknowledgement,
        silence,
    })
}

/// Reads a page, the newest first. Not prepared, as latest values are not: planned for its filters, it
/// walks the index of one of them, or of what is open.
pub(crate) async fn list(pool: &Pool, query: &Episodes) -> Result<KeysetListing<Episode>, Problem> {
    let client = pool.get().await?;
    let (from, to) = (query.from.map(OffsetDateTime::from), query.to.map(OffsetDateTime::from));
    let (after_at, after_id) = query.page.after.map(|(at, id)| (OffsetDateTime::from(at), id)).unzip();
    let rows = query.page.rows();
    let params: [(&(dyn ToSql + Sync), Type); 14] = [
        (&query.state, Type::TEXT),
        (&query.sensor_id, Type::TEXT),
        (&query.zone_id, Type::TEXT),
        (&query.device_type, Type::TEXT),
        (&query.metric, Type::TEXT),
        (&query.severity, Type::TEXT),
        (&query.threshold_id, Type::UUID),
        (&from, Type::TIMESTAMPTZ),
        (&to, Type::TIMESTAMPTZ),
        (&query.is_acknowledged, Type::BOOL),
        (&query.is_silenced, Type::BOOL),
        (&after_at, Type::TIMESTAMPTZ),
        (&after_id, Type::UUID),
        (&rows, Type::INT8),
    ];
    let total = async {
        if !query.page.is_total_wanted {
            return Ok(None);
        }
        let counted = client.query_typed(COUNT, &params[..11]).await?;
        counted.first().map(|row| row.try_get(0)).transpose()
    };
    let (total, rows) = tokio::try_join!(total, client.query_typed(LIST, &params))?;
    let resources = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(KeysetListing::new(resources, &query.page, |last| (last.opened_at, last.episode_id), total))
}

/// Reads one.
pub(crate) async fn find(pool: &Pool, id: Uuid) -> Result<Episode, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(FIND).await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    read(&row.ok_or_else(|| Problem::not_found("no such episode"))?)
}

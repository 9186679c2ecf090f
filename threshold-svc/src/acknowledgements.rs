//! `/api/v1/alerts/{episodeId}/acknowledgement`: somebody has taken note of an episode (ADR 0025).
//!
//! Whether there is such an episode is the read model's to know, which follows the alerts and may be behind
//! an operator who has just read one.

use crate::routes::{READERS, WRITERS, subject};
use actix_web::web::{Data, Path, Payload, ServiceConfig, delete, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::Caller;
use chassis::http::{Fields, Problem, check_prose};
use deadpool_postgres::Pool;
use schema::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

const PATH: &str = "/api/v1/alerts/{episodeId}/acknowledgement";
/// Longest note, in characters: a paragraph for the colleagues.
const NOTE_CHARS_MAX: usize = 1_000;
/// Old acknowledgements that a new one forgets, so that it stays short.
const FORGOTTEN_MAX: i64 = 100;

const INSERT: &str = "INSERT INTO alert_acknowledgements (episode_id, note, acknowledged_by) VALUES ($1, $2, $3) \
     ON CONFLICT DO NOTHING RETURNING episode_id, note, acknowledged_by, acknowledged_at";
const SELECT: &str = "SELECT episode_id, note, acknowledged_by, acknowledged_at FROM alert_acknowledgements \
     WHERE episode_id = $1";
const DELETE: &str = "DELETE FROM alert_acknowledgements WHERE episode_id = $1";
const FORGET: &str = "DELETE FROM alert_acknowledgements WHERE episode_id IN (\
     SELECT episode_id FROM alert_acknowledgements WHERE acknowledged_at < now() - INTERVAL '2 years' \
     ORDER BY acknowledged_at LIMIT $1)";

/// The resource as it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement {
    episode_id: Uuid,
    note: String,
    acknowledged_by: String,
    acknowledged_at: Timestamp,
}

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    let one = resource(PATH);
    app.service(one.route(post().to(acknowledge)).route(get().to(find)).route(delete().to(take_back)));
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::field("episodeId", "must be a UUID"))
}

fn read(row: &Row) -> Result<Acknowledgement, Problem> {
    Ok(Acknowledgement {
        episode_id: row.try_get("episode_id")?,
        note: row.try_get("note")?,
        acknowledged_by: row.try_get("acknowledged_by")?,
        acknowledged_at: row.try_get::<_, OffsetDateTime>("acknowledged_at")?.into(),
    })
}

/// Acknowledges an episode: 201, or 200 when the same caller has done so in the same words.
async fn acknowledge(
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let id = parse_id(&id)?;
    let mut fields = Fields::of_body(&request, body).await?;
    let note = fields.text_optional("note", |text| check_prose(text, NOTE_CHARS_MAX)).unwrap_or_default();
    fields.finish()?;
    let by = subject(&caller);

    let client = pool.get().await?;
    let (insert, select, forget) = tokio::try_join!(
        client.prepare_cached(INSERT),
        client.prepare_cached(SELECT),
        client.prepare_cached(FORGET)
    )?;
    if let Some(row) = client.query_opt(&insert, &[&id, &note, &by]).await? {
        client.execute(&forget, &[&FORGOTTEN_MAX]).await?;
        return Ok(HttpResponse::Created().json(read(&row)?));
    }
    let there = client.query_opt(&select, &[&id]).await?.as_ref().map(read).transpose()?;
    match there {
        Some(there) if there.note == note && there.acknowledged_by == by => {
            Ok(HttpResponse::Ok().json(there))
        }
        _ => {
            let detail = "the episode is acknowledged already: take that back first";
            Err(Problem::conflict("/problems/acknowledged", detail))
        }
    }
}

async fn find(caller: Caller, id: Path<String>, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let id = parse_id(&id)?;
    let client = pool.get().await?;
    let statement = client.prepare_cached(SELECT).await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    let row = row.ok_or_else(|| Problem::not_found("the episode is not acknowledged"))?;
    Ok(HttpResponse::Ok().json(read(&row)?))
}

/// Takes an acknowledgement back, whoever gave it.
async fn take_back(caller: Caller, id: Path<String>, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let id = parse_id(&id)?;
    let client = pool.get().await?;
    let statement = client.prepare_cached(DELETE).await?;
    if client.execute(&statement, &[&id]).await? == 0 {
        return Err(Problem::not_found("the episode is not acknowledged"));
    }
    Ok(HttpResponse::NoContent().finish())
}

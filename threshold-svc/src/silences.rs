//! `/api/v1/silences`: alerts that are expected and shall wake nobody.

mod silence;
mod store;

use crate::routes::{LIMIT_DEFAULT, LIMIT_MAX, READERS, WRITERS, subject};
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload, ServiceConfig, delete, get, patch, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::Caller;
use chassis::http::{Change, Fields, Problem, if_match, representation, version_tag};
use deadpool_postgres::Pool;
use schema::Timestamp;
use silence::{Filter, NewSilence};
use uuid::Uuid;

const PATH: &str = "/api/v1/silences";

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    app.service(resource(PATH).route(post().to(create)).route(get().to(list))).service(
        resource(format!("{PATH}/{{silenceId}}"))
            .route(get().to(read))
            .route(patch().to(change))
            .route(delete().to(expire)),
    );
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::field("silenceId", "must be a UUID"))
}

/// Creates a silence; with an id of the caller's own it can be repeated, as for a threshold.
async fn create(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let new = NewSilence::read(Fields::of_body(&request, body).await?, Timestamp::now())?;
    let (is_new, silence) = store::insert(&pool, &new, &subject(&caller)).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response
        .insert_header((LOCATION, format!("{PATH}/{}", silence.silence_id)))
        .insert_header(version_tag(silence.version))
        .json(silence))
}

async fn list(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let mut fields = Fields::of_query(&request);
    let filter = Filter::take(&mut fields);
    let page = fields.keyset(LIMIT_DEFAULT, LIMIT_MAX);
    fields.finish()?;
    Ok(HttpResponse::Ok().json(store::list(&pool, &filter, &page).await?))
}

async fn read(
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let silence = store::find(&pool, parse_id(&id)?).await?;
    Ok(representation(&request, silence.version, &silence))
}

async fn change(
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let id = parse_id(&id)?;
    let expected = if_match(&request)?;
    let change = Change::of_body(&request, body).await?;
    let silence = store::change(&pool, id, change, expected.as_deref()).await?;
    Ok(HttpResponse::Ok().insert_header(version_tag(silence.version)).json(silence))
}

async fn expire(
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let id = parse_id(&id)?;
    let expected = if_match(&request)?;
    store::expire(&pool, id, expected.as_deref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

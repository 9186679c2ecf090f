//! The routes. Each handler checks the caller's role before it reads anything else of the request.

use crate::store;
use crate::threshold::{self, Draft, Filter};
use crate::versions;
use crate::{acknowledgements, backtest, bulk, silences};
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload, ServiceConfig, delete, get, patch, post, put, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::{Caller, Role};
use chassis::http::{Change, Fields, Problem, if_match, representation, version_tag};
use deadpool_postgres::Pool;
use uuid::Uuid;

pub(crate) const READERS: [Role; 2] = [Role::Operator, Role::Analyst];
pub(crate) const WRITERS: [Role; 1] = [Role::Operator];
const PATH: &str = "/api/v1/thresholds";
/// Resources of a page when the caller names no number, and most of them: about 600 bytes each.
pub(crate) const LIMIT_DEFAULT: i64 = 100;
pub(crate) const LIMIT_MAX: i64 = 1_000;
/// Longest name of a caller that is kept, in characters.
const SUBJECT_CHARS_MAX: usize = 200;

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    silences::configure(app);
    acknowledgements::configure(app);
    // Before the ids: none of these words is one.
    app.service(resource(format!("{PATH}/import")).route(post().to(bulk::import)))
        .service(resource(format!("{PATH}/export")).route(get().to(bulk::export)))
        .service(resource(format!("{PATH}/backtest")).route(post().to(backtest::backtest)));
    app.service(resource(PATH).route(post().to(create)).route(get().to(list)))
        .service(
            resource(format!("{PATH}/{{thresholdId}}"))
                .route(get().to(read))
                .route(put().to(change))
                .route(patch().to(change))
                .route(delete().to(remove)),
        )
        .service(resource(format!("{PATH}/{{thresholdId}}/versions")).route(get().to(history)));
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    threshold::parse_id(text).map_err(|detail| Problem::field("thresholdId", detail))
}

/// Names the caller for those who read later who did it. A subject may be any text; PostgreSQL stores no NUL.
pub(crate) fn subject(caller: &Caller) -> String {
    caller.subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS_MAX).collect()
}

/// Creates a threshold. A caller that got no answer sends it again with the id that it has chosen for it: 201
/// the first time, 200 from then on, and one threshold.
async fn create(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let (id, draft) = Draft::creation(Fields::of_body(&request, body).await?)?;
    let id = id.unwrap_or_else(Uuid::new_v4);
    let (is_new, changed) = store::insert(&pool, id, &draft, &subject(&caller)).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response
        .insert_header((LOCATION, format!("{PATH}/{id}")))
        .insert_header(version_tag(changed.threshold.version))
        .json(changed))
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
    let threshold = store::find(&pool, parse_id(&id)?).await?;
    Ok(representation(&request, threshold.version, &threshold))
}

/// Answers who made which version of a threshold, also of one that was deleted.
async fn history(caller: Caller, id: Path<String>, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    Ok(HttpResponse::Ok().json(versions::list(&pool, parse_id(&id)?).await?))
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
    let changed = store::change(&pool, id, change, expected.as_deref(), &subject(&caller)).await?;
    Ok(HttpResponse::Ok().insert_header(version_tag(changed.threshold.version)).json(changed))
}

async fn remove(
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let id = parse_id(&id)?;
    let expected = if_match(&request)?;
    store::delete(&pool, id, expected.as_deref(), &subject(&caller)).await?;
    Ok(HttpResponse::NoContent().finish())
}

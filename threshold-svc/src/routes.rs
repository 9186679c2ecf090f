//! The routes. Each handler checks the caller's role before it reads anything else of the request.

use crate::store;
use crate::threshold::{self, Draft, Filter};
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload, ServiceConfig, delete, get, patch, post, put, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::{Caller, Role};
use chassis::http::{Change, Fields, Problem, if_match, representation, version_tag};
use deadpool_postgres::Pool;
use uuid::Uuid;

const READERS: [Role; 2] = [Role::Operator, Role::Analyst];
const WRITERS: [Role; 1] = [Role::Operator];
const PATH: &str = "/api/v1/thresholds";
/// Resources of a page when the caller names no number, and most of them: about 400 bytes each.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    app.service(resource(PATH).route(post().to(create)).route(get().to(list))).service(
        resource(format!("{PATH}/{{thresholdId}}"))
            .route(get().to(read))
            .route(put().to(change))
            .route(patch().to(change))
            .route(delete().to(remove)),
    );
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    threshold::parse_id(text).map_err(|detail| Problem::field("thresholdId", detail))
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
    let (is_new, threshold) = store::insert(&pool, id.unwrap_or_else(Uuid::new_v4), &draft).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response
        .insert_header((LOCATION, format!("{PATH}/{}", threshold.threshold_id)))
        .insert_header(version_tag(threshold.version))
        .json(threshold))
}

async fn list(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let mut fields = Fields::of_query(&request);
    let filter = Filter::take(&mut fields);
    let page = fields.page(LIMIT_DEFAULT, LIMIT_MAX);
    fields.finish()?;
    Ok(HttpResponse::Ok().json(store::list(&pool, &filter, page).await?))
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
    let threshold = store::change(&pool, id, change, expected.as_deref()).await?;
    Ok(HttpResponse::Ok().insert_header(version_tag(threshold.version)).json(threshold))
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
    store::delete(&pool, id, expected.as_deref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

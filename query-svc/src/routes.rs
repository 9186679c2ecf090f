//! The routes. Each handler asks who calls before it reads anything else of the request.

use crate::cache::HoursCache;
use crate::query::{Episodes, Hours, Latest};
use crate::store;
use actix_web::http::header::{CACHE_CONTROL, ContentType, ETag};
use actix_web::web::{Data, Path, ServiceConfig, get, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::{Caller, Role};
use chassis::http::{Fields, Problem, is_held};
use deadpool_postgres::Pool;

const READERS: [Role; 2] = [Role::Analyst, Role::Operator];

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    app.service(resource("/api/v1/sensors/{sensorId}/aggregates/hourly").route(get().to(hours)))
        .service(resource("/api/v1/alerts").route(get().to(episodes)))
        .service(resource("/api/v1/alerts/{episodeId}").route(get().to(episode)))
        .service(resource("/api/v1/readings/latest").route(get().to(latest)))
        .service(resource("/api/v1/readings/latest/{sensorId}").route(get().to(latest_of_sensor)));
}

async fn hours(
    caller: Caller,
    sensor_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
    cache: Data<HoursCache>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Hours::read(&sensor_id, Fields::of_query(&request))?;
    let answer = cache.get(query.clone(), store::hours(&pool, &query)).await?;
    let held = is_held(&request, &answer.tag);
    let mut response = if held { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    // Whole seconds, rounded down: a client must not keep it longer than it is fresh here.
    response
        .insert_header((CACHE_CONTROL, format!("private, max-age={}", answer.remaining().as_secs())))
        .insert_header(ETag(answer.tag.clone()));
    if held {
        return Ok(response.finish());
    }
    Ok(response.content_type(ContentType::json()).body(answer.body.clone()))
}

async fn latest(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Latest::read(Fields::of_query(&request))?;
    Ok(HttpResponse::Ok().json(store::latest(&pool, &query).await?))
}

async fn latest_of_sensor(
    caller: Caller,
    sensor_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Latest::of_sensor(&sensor_id, Fields::of_query(&request))?;
    let values = store::latest(&pool, &query).await?;
    if values.total == 0 {
        return Err(Problem::not_found("no reading of this sensor"));
    }
    Ok(HttpResponse::Ok().json(values))
}

async fn episodes(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Episodes::read(Fields::of_query(&request))?;
    Ok(HttpResponse::Ok().json(store::episodes(&pool, &query).await?))
}

async fn episode(
    caller: Caller,
    episode_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let mut fields = Fields::of_query(&request);
    let id = episode_id.parse();
    if id.is_err() {
        fields.problem("episodeId", "must be a UUID");
    }
    fields.finish()?;
    let id = id.map_err(|_| Problem::internal(&"an id was neither read nor refused"))?;
    Ok(HttpResponse::Ok().json(store::episode(&pool, id).await?))
}

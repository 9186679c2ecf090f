//! The routes. Each handler asks who calls before it reads anything else of the request.

use crate::cache::{Answer, AnswerCache, Question};
use crate::format::{Format, MEDIA_TYPES};
use crate::query::{Aggregates, Episodes, Hours, Latest, Reading, Readings};
use crate::store::{self, AggregateSheet, ReadingSheet};
use crate::stream::{ROWS_MAX, Streams};
use actix_web::http::header::{CACHE_CONTROL, ContentType, ETag};
use actix_web::web::{Data, Path, Payload, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::{Caller, Role};
use chassis::http::{Fields, Problem, acceptable, is_held};
use deadpool_postgres::Pool;
use schema::Timestamp;

const READERS: [Role; 2] = [Role::Analyst, Role::Operator];

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    app.service(resource("/api/v1/sensors/{sensorId}/aggregates/hourly").route(get().to(hours)))
        .service(resource("/api/v1/alerts").route(get().to(episodes)))
        .service(resource("/api/v1/alerts/{episodeId}").route(get().to(episode)))
        .service(
            resource("/api/v1/readings/aggregates")
                .route(get().to(aggregates))
                .route(post().to(aggregates_by_body)),
        )
        .service(
            resource("/api/v1/readings/raw").route(get().to(readings)).route(post().to(readings_by_body)),
        )
        .service(resource("/api/v1/readings/latest").route(get().to(latest)))
        .service(resource("/api/v1/readings/latest/{sensorId}").route(get().to(latest_of_sensor)))
        .service(resource("/api/v1/readings/{eventId}").route(get().to(reading)));
}

async fn hours(
    caller: Caller,
    sensor_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
    cache: Data<AnswerCache>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Hours::read(&sensor_id, Fields::of_query(&request), Timestamp::now())?;
    let answer = cache.get(Question::Hours(query.clone()), store::hours(&pool, &query)).await?;
    Ok(kept(&request, &answer))
}

/// Answers with what the cache keeps, or says that the caller holds it already.
fn kept(request: &HttpRequest, answer: &Answer) -> HttpResponse {
    let held = is_held(request, &answer.tag);
    let mut response = if held { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    // Whole seconds, rounded down: a client must not keep it longer than it is fresh here.
    response
        .insert_header((CACHE_CONTROL, format!("private, max-age={}", answer.remaining().as_secs())))
        .insert_header(ETag(answer.tag.clone()));
    if held {
        return response.finish();
    }
    response.content_type(ContentType::json()).body(answer.body.clone())
}

async fn aggregates(
    caller: Caller,
    request: HttpRequest,
    pool: Data<Pool>,
    cache: Data<AnswerCache>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    answer_aggregates(&request, Fields::of_query(&request), &pool, &cache).await
}

/// Answers the question of a body, because a long list of sensors is no address.
async fn aggregates_by_body(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
    cache: Data<AnswerCache>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    answer_aggregates(&request, Fields::of_body(&request, body).await?, &pool, &cache).await
}

/// Pages come from the cache; other formats are streamed.
async fn answer_aggregates(
    request: &HttpRequest,
    fields: Fields,
    pool: &Pool,
    cache: &AnswerCache,
) -> Result<HttpResponse, Problem> {
    let (format, rows_max) = format(request)?;
    let now = Timestamp::now();
    let query = Aggregates::read(fields, now, rows_max)?;
    if format == Format::Json {
        let question = Question::Aggregates(Box::new(query.clone()));
        let load = store::aggregates(pool, streams(request)?.database(), &query, now);
        return Ok(kept(request, &*cache.get(question, load).await?));
    }
    let limit = query.limit;
    let sheet = AggregateSheet::new(query, now);
    let writer = sheet.writer(format);
    streams(request)?.answer(pool, sheet, writer, limit).await
}

async fn readings(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    answer_readings(&request, Fields::of_query(&request), &pool).await
}

async fn readings_by_body(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    answer_readings(&request, Fields::of_body(&request, body).await?, &pool).await
}

async fn answer_readings(
    request: &HttpRequest,
    fields: Fields,
    pool: &Pool,
) -> Result<HttpResponse, Problem> {
    let (format, rows_max) = format(request)?;
    let query = Readings::read(fields, Timestamp::now(), rows_max)?;
    let limit = query.limit;
    streams(request)?.answer(pool, ReadingSheet::new(query), ReadingSheet::writer(format), limit).await
}

/// Chooses the format, and how many rows a stream of it may have; a page has its own bounds.
fn format(request: &HttpRequest) -> Result<(Format, Option<i64>), Problem> {
    let format = Format::of(acceptable(request, &MEDIA_TYPES)?);
    Ok((format, (format != Format::Json).then_some(ROWS_MAX)))
}

fn streams(request: &HttpRequest) -> Result<&Streams, Problem> {
    let streams = request.app_data::<Data<Streams>>().map(Data::get_ref);
    streams.ok_or_else(|| Problem::internal(&"no streams are configured"))
}

async fn reading(
    caller: Caller,
    event_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Reading::read(&event_id, Fields::of_query(&request), Timestamp::now())?;
    Ok(HttpResponse::Ok().json(store::reading(&pool, &query).await?))
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
        return Err(store::unknown_sensor());
    }
    Ok(HttpResponse::Ok().json(values))
}

async fn episodes(caller: Caller, request: HttpRequest, pool: Data<Pool>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let query = Episodes::read(Fields::of_query(&request), Timestamp::now())?;
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

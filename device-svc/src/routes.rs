//! The routes. Each handler asks who calls before it reads anything else of the request.

use crate::device::{Draft, Filter};
use crate::store;
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload, ServiceConfig, delete, get, patch, post, put, resource};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::{Caller, Role};
use chassis::http::{Change, Fields, Problem, if_match, representation, version_tag};
use deadpool_postgres::Pool;
use schema::check_sensor_id;

const READERS: [Role; 2] = [Role::Operator, Role::Analyst];
const WRITERS: [Role; 1] = [Role::Operator];
const PATH: &str = "/api/v1/devices";
/// Resources of a page when the caller names no number, and most of them: about a kilobyte each.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// Adds the routes.
pub(crate) fn configure(app: &mut ServiceConfig) {
    app.service(resource(PATH).route(post().to(create)).route(get().to(list))).service(
        resource(format!("{PATH}/{{sensorId}}"))
            .route(get().to(read))
            .route(put().to(change))
            .route(patch().to(change))
            .route(delete().to(remove)),
    );
}

fn check(sensor_id: &str) -> Result<&str, Problem> {
    check_sensor_id(sensor_id).map_err(|error| Problem::field("sensorId", error.to_string()))?;
    Ok(sensor_id)
}

async fn create(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let (sensor_id, draft) = Draft::registration(Fields::of_body(&request, body).await?)?;
    let device = store::insert(&pool, &sensor_id, &draft).await?;
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("{PATH}/{sensor_id}")))
        .insert_header(version_tag(device.version))
        .json(device))
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
    sensor_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let device = store::find(&pool, check(&sensor_id)?).await?;
    Ok(representation(&request, device.version, &device))
}

async fn change(
    caller: Caller,
    sensor_id: Path<String>,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let sensor_id = check(&sensor_id)?;
    let expected = if_match(&request)?;
    let change = Change::of_body(&request, body).await?;
    let device = store::change(&pool, sensor_id, change, expected.as_deref()).await?;
    Ok(HttpResponse::Ok().insert_header(version_tag(device.version)).json(device))
}

async fn remove(
    caller: Caller,
    sensor_id: Path<String>,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let sensor_id = check(&sensor_id)?;
    let expected = if_match(&request)?;
    store::delete(&pool, sensor_id, expected.as_deref()).await?;
    Ok(HttpResponse::NoContent().finish())
}

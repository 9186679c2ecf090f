//! The behaviour that every REST resource shares: OPTIONS, a 405 that explains itself, and request metrics
//! whose labels come from fixed sets.

use super::Problem;
use super::change::MERGE_PATCH;
use crate::metrics;
use crate::problem::MEDIA_TYPE;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web;
use prometheus::{HistogramVec, IntCounterVec};
use std::time::Instant;

/// Header that names the formats of a PATCH. Source: RFC 5789, section 3.1.
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// Gives the bodiless 405 of the framework a problem and its whole `Allow`, and turns it into the answer to
/// an OPTIONS.
pub(super) async fn explain(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let is_question = request.method() == Method::OPTIONS;
    let mut response = next.call(request).await?.map_into_boxed_body();
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return Ok(response);
    }
    let allow = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
    let mut methods: Vec<_> = allow.split(", ").filter(|method| !method.is_empty()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    let patches = methods.contains(&"PATCH");
    methods.push("OPTIONS");
    let allow =
        HeaderValue::try_from(methods.join(", ")).map_err(actix_web::error::ErrorInternalServerError)?;
    response.headers_mut().insert(ALLOW, allow);
    if patches {
        response.headers_mut().insert(ACCEPT_PATCH, HeaderValue::from_static(MERGE_PATCH));
    }
    if is_question {
        *response.response_mut().status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let problem = Problem::new(response.status(), "the resource has other methods: see Allow");
    Ok(response.map_body(|head, _| {
        head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        BoxBody::new(problem.body())
    }))
}

/// Names a method for a label. A client may invent any token as a method, and every label value is a series
/// for ever.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

metrics! {
    /// Counts requests.
    #[derive(Clone)]
    pub(super) struct RequestMetrics {
        /// Requests answered.
        requests: IntCounterVec = "http_requests_total" by ["method", "route", "status"],
        /// Time from request to answer.
        seconds: HistogramVec = "http_request_duration_seconds" by ["method", "route"] in prometheus::DEFAULT_BUCKETS,
    }
}

pub(super) async fn measure(
    metrics: web::Data<RequestMetrics>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let method = method_label(request.method());
    // The pattern, not the path: a path holds sensor ids, and labels must stay few.
    let route = request.match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let outcome = next.call(request).await;
    let status = match &outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    metrics.requests.with_label_values(&[method, &route, status.as_str()]).inc();
    metrics.seconds.with_label_values(&[method, &route]).observe(started.elapsed().as_secs_f64());
    outcome
}

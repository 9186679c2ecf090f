//! A handler's argument `Caller`: who asks, by the bearer token of the request.

use crate::auth::{Caller, Error, Verifier, bearer};
use crate::problem::Problem;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use std::pin::Pin;

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await })
    }
}

async fn authenticate(request: &HttpRequest) -> Result<Caller, Problem> {
    let verifier = request
        .app_data::<web::Data<Verifier>>()
        .ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no verifier is configured"))?;
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(bearer).ok_or(Error::Absent)?;
    Ok(verifier.verify(token).await?)
}

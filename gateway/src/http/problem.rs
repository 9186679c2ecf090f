//! Errors as `application/problem+json`.
//!
//! Source: RFC 9457.

use std::time::Duration;

use bytes::Bytes;
use chassis::auth;
use chassis::http::FieldError;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), header: None }
    }

    /// 400 that names every bad field.
    pub(super) fn fields(errors: Vec<FieldError>, detail: impl Into<String>) -> Self {
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    /// 401.
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, auth::Error::Absent.challenge())
    }

    /// 503: the gateway cannot take it now.
    pub(super) fn busy(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).after(retry_after)
    }

    /// 429: this device sends too much.
    pub(super) fn too_many(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).after(retry_after)
    }

    pub(super) fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some(Box::new((name, HeaderValue::from_static(value)))), ..self }
    }

    /// `Retry-After` counts whole seconds; to come too early would be in vain.
    fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { header: Some(Box::new((RETRY_AFTER, seconds.into()))), ..self }
    }

    #[cfg(test)]
    pub(super) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if let Some(header) = self.header {
            response.headers_mut().insert(header.0, header.1);
        }
        response
    }
}

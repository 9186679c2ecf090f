//! An error of HTTP as `application/problem+json`, for whatever server answers with it.
//!
//! Source: RFC 9457. A `type` of `about:blank` says that the status says it all; where a status has several
//! reasons that a program may want to tell apart, the service names one by a path below `/problems/`, which
//! is a name and no page.

use crate::auth;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Names one bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name as the client wrote it, dotted where it is nested; a query parameter or path segment by its
    /// name.
    pub field: String,
    /// What it must be.
    pub detail: String,
}

/// An error as `application/problem+json`.
///
/// It carries no text of the database or of a library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// What went wrong, for the caller.
    pub detail: String,
    /// Every bad field, when fields are the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(skip)]
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Problem {
    /// Makes a problem of that status, which may be any framework's.
    pub fn new(status: impl Into<u16>, detail: impl Into<String>) -> Self {
        let status = status.into();
        Self {
            kind: "about:blank",
            title: title(status),
            status,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Makes a 400 that names every bad field.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let mut names: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        names.dedup();
        let detail = format!("bad value for {}", names.join(", "));
        Self { errors, ..Self::new(400_u16, detail) }
    }

    /// Makes a 400 that names one bad field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// Makes a 401 for a caller that has shown nothing to be known by.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(401_u16, detail).header("www-authenticate", auth::Error::Absent.challenge())
    }

    /// Makes a 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404_u16, detail)
    }

    /// Makes a 409, whose several reasons are told apart by their types.
    pub fn conflict(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, ..Self::new(409_u16, detail) }
    }

    /// Makes a 429 with `Retry-After`: the caller sends too much.
    pub fn too_many(detail: impl Into<String>, wait: Duration) -> Self {
        Self::new(429_u16, detail).retry_after(wait)
    }

    /// Makes a 503 with `Retry-After`: the server cannot take it now.
    pub fn busy(detail: impl Into<String>, wait: Duration) -> Self {
        Self::new(503_u16, detail).retry_after(wait)
    }

    /// Makes a 503 with `Retry-After`, when a dependency is away. The cause is logged here, once, and not
    /// shown.
    pub fn unavailable(cause: &dyn fmt::Display) -> Self {
        tracing::warn!(%cause, "a dependency is away");
        Self::busy("a dependency is away; try again", Duration::from_secs(2))
    }

    /// Makes a 500. The cause is logged here, once, and not shown.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(500_u16, "unexpected error")
    }

    /// Adds bad fields.
    #[must_use]
    pub fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds `Retry-After`, in whole seconds: to come too early would be in vain.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header("retry-after", seconds.to_string())
    }

    /// Returns the status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the headers beside those of the body: lower-case names, ASCII values.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, &**value))
    }

    /// Encodes the body, whose media type is [`MEDIA_TYPE`].
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and a number are JSON")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Names a status. Source: RFC 9110, section 15; RFC 6585.
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_problem_has_the_members_of_its_rfc_and_errors_only_when_fields_are_bad() {
        let problem = Problem::not_found("no such device");
        let body =
            json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such device"});
        assert_eq!(serde_json::from_slice::<Value>(&problem.body()).unwrap(), body);
        let problem = Problem::field("min", "must be a number");
        let errors = json!([{"field": "min", "detail": "must be a number"}]);
        assert_eq!(serde_json::from_slice::<Value>(&problem.body()).unwrap()["errors"], errors);
        let problem = Problem::conflict("/problems/retired", "stays");
        assert_eq!(serde_json::from_slice::<Value>(&problem.body()).unwrap()["type"], "/problems/retired");
    }

    #[test]
    fn retry_after_counts_whole_seconds_and_rounds_up() {
        for (wait, seconds) in [(0, "0"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let problem = Problem::new(429_u16, "slower").retry_after(Duration::from_millis(wait));
            assert_eq!(problem.headers().collect::<Vec<_>>(), [("retry-after", seconds)]);
        }
    }
}

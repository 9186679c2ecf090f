//! `Accept`: a read is answered in a format that its caller takes, or refused.
//!
//! Source: RFC 9110, section 12.5.1.

use super::Problem;
use actix_web::HttpRequest;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ACCEPT, CONTENT_TYPE};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;

const JSON: &str = "application/json";

/// Refuses a read whose `Accept` leaves out the format that it is answered in. A write is never refused for
/// the format of its answer.
pub(super) async fn negotiate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let response = next.call(request).await?;
    if is_read && response.status().is_success() {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let format = kind.and_then(|kind| kind.split(';').next()).unwrap_or(JSON).trim().to_owned();
        if weight(response.request(), &format) <= 0.0 {
            let detail = format!("the resource is there as {format}: leave Accept out, or let it name that");
            return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail).into());
        }
    }
    Ok(response)
}

/// Chooses the format of an answer that there is in several: the one that the caller likes best, of equal
/// ones the first.
///
/// # Panics
/// There is no format to choose from.
pub fn preferred<'a>(request: &HttpRequest, formats: &[&'a str]) -> &'a str {
    let mut best = (formats[0], weight(request, formats[0]));
    for format in &formats[1..] {
        let weight = weight(request, format);
        if weight > best.1 {
            best = (format, weight);
        }
    }
    best.0
}

/// Chooses as [`preferred`] does.
///
/// # Errors
/// 406 that names the formats, when the caller takes none of them.
///
/// # Panics
/// There is no format to choose from.
pub fn acceptable<'a>(request: &HttpRequest, formats: &[&'a str]) -> Result<&'a str, Problem> {
    let format = preferred(request, formats);
    if weight(request, format) > 0.0 {
        return Ok(format);
    }
    let detail = format!("the resource is there as {}: let Accept name one of them", formats.join(", "));
    Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail))
}

fn weight(request: &HttpRequest, format: &str) -> f32 {
    let lines = request.headers().get_all(ACCEPT);
    weight_of(format, lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')))
}

/// Says how much some media ranges like a format, from 0 to 1. The most specific one that names it decides;
/// without any range, everything is taken, and one that cannot be read counts for nothing.
fn weight_of<'a>(format: &str, ranges: impl Iterator<Item = &'a str>) -> f32 {
    let (mut has_range, mut best) = (false, (0, 0.0));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        has_range |= essence.contains('/');
        let is_kind = |kind: &str| format.split_once('/').is_some_and(|(own, _)| own == kind);
        let specificity = match essence.strip_suffix("/*") {
            _ if essence == format => 3,
            Some("*") => 1,
            Some(kind) if is_kind(kind) => 2,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.and_then(|weight| weight.parse::<f32>().ok()).unwrap_or(1.0);
        if specificity > best.0 || (specificity == best.0 && weight > best.1) {
            best = (specificity, weight);
        }
    }
    if has_range { best.1 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_range_says_whether_json_is_taken() {
        for taken in [
            "",
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/csv, application/json;q=0.1",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/*",
            "*/*;q=0, application/json",
            "nonsense",
            "application/json;q=much",
        ] {
            assert!(weight_of(JSON, taken.split(',')) > 0.0, "{taken}");
        }
        for refused in [
            "text/csv",
            "application/vnd.apache.arrow.stream",
            "text/*, image/png",
            "application/json;q=0",
            "application/json;q=0.0, */*",
            "application/*;q=0, */*",
            "text/csv, nonsense",
        ] {
            assert!(weight_of(JSON, refused.split(',')) <= 0.0, "{refused}");
        }
    }

    #[test]
    fn the_format_that_is_liked_best_is_chosen() {
        use actix_web::test::TestRequest;
        let chosen = |accept: &str| {
            let request = TestRequest::default().insert_header((ACCEPT, accept)).to_http_request();
            preferred(&request, &[JSON, "text/csv"])
        };
        for (accept, expected) in [
            ("*/*", JSON),
            ("text/csv", "text/csv"),
            ("text/*", "text/csv"),
            ("text/csv;q=0.5, application/json", JSON),
            ("text/csv, */*;q=0.1", "text/csv"),
            ("text/csv;q=0, */*", JSON),
            ("image/png", JSON),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
    }
}

//! `Accept`: a read is answered in a format that its caller takes, or refused.
//!
//! Source: RFC 9110, section 12.5.1.

use super::Problem;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::ACCEPT;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;

/// Refuses a read whose `Accept` leaves out JSON. A write is never refused for the format of its answer.
pub(super) async fn negotiate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if is_read && request.match_pattern().is_some() {
        let lines = request.headers().get_all(ACCEPT);
        if !takes_json(lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','))) {
            let detail = "the resource is there as application/json: leave Accept out, or let it name that";
            return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail).into());
        }
    }
    next.call(request).await
}

/// Says whether some media ranges take JSON. The most specific one that names it decides; without any range,
/// everything is taken, and one that cannot be read counts for nothing.
fn takes_json<'a>(ranges: impl Iterator<Item = &'a str>) -> bool {
    let (mut has_range, mut best) = (false, (0, false));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        has_range |= essence.contains('/');
        let specificity = match &*essence {
            "application/json" => 3,
            "application/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_taken = weight.and_then(|weight| weight.parse::<f32>().ok()).is_none_or(|weight| weight > 0.0);
        best = best.max((specificity, is_taken));
    }
    !has_range || best.1
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
            assert!(takes_json(taken.split(',')), "{taken}");
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
            assert!(!takes_json(refused.split(',')), "{refused}");
        }
    }
}

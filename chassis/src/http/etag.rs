//! Conditional requests: ETags, `If-Match` against lost updates, `If-None-Match` against useless transfers.
//!
//! Source: RFC 9110, sections 8.8.3 and 13.1.

use super::{Problem, stale};
use actix_web::http::header::{ETag, EntityTag, Header, IF_MATCH, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

/// Returns the ETag header of a row's version: `"7"`.
pub fn version_tag(version: i64) -> ETag {
    ETag(EntityTag::new_strong(version.to_string()))
}

/// Reads which versions of a row the caller is ready to change; `None` is any, because the header is absent
/// or `*`.
///
/// Tags are compared strongly, so a weak one matches nothing, and neither does one that is no version of
/// ours.
///
/// # Errors
/// 400 when the header cannot be read: to ignore it would lose an update that the caller meant to protect.
pub fn if_match(request: &HttpRequest) -> Result<Option<Vec<i64>>, Problem> {
    if !request.headers().contains_key(IF_MATCH) {
        return Ok(None);
    }
    let malformed = || Problem::field("If-Match", "must be * or quoted tags such as \"7\"");
    let mut versions = Vec::new();
    for line in request.headers().get_all(IF_MATCH) {
        let line = line.to_str().map_err(|_| malformed())?;
        if line.trim() == "*" {
            return Ok(None);
        }
        for tag in line.split(',') {
            let tag: EntityTag = tag.trim().parse().map_err(|_| malformed())?;
            // A number in another spelling ("07") is another tag.
            let version = tag.tag().parse().ok().filter(|version| version_tag(*version).0.strong_eq(&tag));
            versions.extend(version);
        }
    }
    Ok(Some(versions))
}

/// Demands that the row has one of the versions that the caller is ready to change.
///
/// # Errors
/// 412.
pub fn check_version(expected: Option<&[i64]>, version: i64) -> Result<(), Problem> {
    if expected.is_none_or(|versions| versions.contains(&version)) { Ok(()) } else { Err(stale()) }
}

/// Says whether the caller holds this very representation already (`If-None-Match`).
pub fn is_held(request: &HttpRequest, tag: &EntityTag) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|held| held.weak_eq(tag)),
        Err(_) => false,
    }
}

/// Answers a GET with a row and the tag of its version: 200, or 304 when the caller holds it already.
pub fn representation(request: &HttpRequest, version: i64, resource: &impl Serialize) -> HttpResponse {
    let tag = version_tag(version);
    if is_held(request, &tag.0) {
        return HttpResponse::NotModified().insert_header(tag).finish();
    }
    HttpResponse::Ok().insert_header(tag).json(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn with(name: &'static str, lines: &[&str]) -> HttpRequest {
        let request = TestRequest::default();
        lines.iter().fold(request, |request, line| request.append_header((name, *line))).to_http_request()
    }

    #[test]
    fn if_match_names_versions() {
        let versions = |lines: &[&str]| if_match(&with("if-match", lines)).ok();
        assert_eq!(versions(&[]), Some(None));
        assert_eq!(versions(&["*"]), Some(None));
        assert_eq!(versions(&["\"7\""]), Some(Some(vec![7])));
        assert_eq!(versions(&["\"1\" , \"2\"", "\"3\""]), Some(Some(vec![1, 2, 3])));
    }

    #[test]
    fn if_match_of_another_tag_matches_nothing() {
        for tag in ["W/\"7\"", "\"07\"", "\"+7\"", "\"abc\"", "\"\"", "\"99999999999999999999\""] {
            assert_eq!(if_match(&with("if-match", &[tag])).ok(), Some(Some(vec![])), "{tag}");
        }
    }

    #[test]
    fn malformed_if_match_is_never_taken_for_an_absent_one() {
        for line in ["7", "", "\"7", "\"7\",", "\"7\" 8", "'7'"] {
            assert!(if_match(&with("if-match", &[line])).is_err(), "{line}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let tag = EntityTag::new_strong("7".to_owned());
        for (line, held) in
            [("\"7\"", true), ("W/\"7\"", true), ("\"1\", \"7\"", true), ("*", true), ("\"8\"", false)]
        {
            assert_eq!(is_held(&with("if-none-match", &[line]), &tag), held, "{line}");
        }
        assert!(!is_held(&TestRequest::default().to_http_request(), &tag));
        assert!(!is_held(&with("if-none-match", &["nonsense"]), &tag));
    }
}

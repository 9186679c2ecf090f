//! `/api/v1/thresholds/import` and `/export`: many thresholds at once, as CSV or JSON.

mod rows;
mod store;

use crate::routes::{LIMIT_MAX, READERS, WRITERS, subject};
use crate::store::{Key, key, list};
use crate::threshold::{Filter, Threshold, id_range};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use chassis::auth::Caller;
use chassis::http::{Fields, KeysetPage, Problem, media_type, preferred, read_body};
use deadpool_postgres::Pool;
use futures::TryStreamExt as _;
use futures::stream::try_unfold;

/// The formats of both, the preferred one first.
const FORMATS: [&str; 2] = ["application/json", "text/csv"];
/// Longest import, in bytes: [`rows::ROWS_MAX`] thresholds with a sentence each.
const IMPORT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Fewest digits of the ids that an import may prune: a few would be thresholds of everybody.
const PRUNED_DIGITS_MIN: usize = 12;

/// Creates and changes thresholds: all of the body, or none.
pub(crate) async fn import(
    caller: Caller,
    request: HttpRequest,
    body: Payload,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&WRITERS)?;
    let mut fields = Fields::of_query(&request);
    let is_dry_run = fields.one_of_optional("dryRun", &[("true", true), ("false", false)]);
    let mut pruned = None;
    fields.text_optional("prune", |text| {
        let range = id_range(text).filter(|_| text.len() >= PRUNED_DIGITS_MIN);
        pruned = Some(range.ok_or("must be 12 to 32 hex digits that ids begin with, without hyphens")?);
        Ok::<_, &str>(())
    });
    fields.finish()?;
    let options = store::Options { is_dry_run: is_dry_run.unwrap_or(false), pruned };
    let format = media_type(&request, &FORMATS)?;
    let bytes = read_body(body, IMPORT_BYTES_MAX).await?;
    let lines = if format == FORMATS[0] { rows::of_json(&bytes) } else { rows::of_csv(&bytes) }?;
    let report = store::import(&pool, lines, &options, &subject(&caller)).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// What an export does next.
enum Next {
    Page(KeysetPage<Key>),
    End,
}

/// Streams the thresholds of a list, page by page: no connection waits for a slow reader. An error in the
/// middle breaks the answer off.
pub(crate) async fn export(
    caller: Caller,
    request: HttpRequest,
    pool: Data<Pool>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let mut fields = Fields::of_query(&request);
    let filter = Filter::take(&mut fields);
    fields.finish()?;
    let format = preferred(&request, &FORMATS);
    let is_csv = format != FORMATS[0];
    let first = KeysetPage { limit: LIMIT_MAX, after: None, is_total_wanted: false };
    let pages = try_unfold(Next::Page(first), move |next| {
        let (pool, filter) = (pool.clone(), filter.clone());
        async move {
            let Next::Page(page) = next else { return Ok(None) };
            let listing = list(&pool, &filter, &page).await?;
            let last = listing.resources.last().map(key);
            let part = part(&listing.resources, is_csv, page.after.is_none(), listing.next.is_none())?;
            let next = match (listing.next, last) {
                (Some(_), Some(last)) => Next::Page(KeysetPage { after: Some(last), ..page }),
                _ => Next::End,
            };
            Ok::<_, Problem>(Some((Bytes::from(part), next)))
        }
    });
    // Its cause was logged where it was met.
    let pages = pages.map_err(|problem| std::io::Error::other(problem.detail));
    Ok(HttpResponse::Ok()
        .content_type(if is_csv { "text/csv; charset=utf-8" } else { "application/json" })
        .streaming(pages))
}

/// Writes a page of an export.
fn part(thresholds: &[Threshold], is_csv: bool, is_first: bool, is_last: bool) -> Result<Vec<u8>, Problem> {
    if is_csv {
        let header = if is_first { rows::header() } else { Vec::new() };
        return Ok([header, rows::to_csv(thresholds)?].concat());
    }
    let mut part = if is_first { b"[".to_vec() } else { Vec::new() };
    for (number, threshold) in thresholds.iter().enumerate() {
        part.extend_from_slice(if is_first && number == 0 { b"\n" } else { b",\n" });
        let json = serde_json::to_vec(threshold).map_err(|error| Problem::internal(&error))?;
        part.extend(json);
    }
    if is_last {
        part.extend_from_slice(b"\n]\n");
    }
    Ok(part)
}

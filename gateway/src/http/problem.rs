//! Problems as answers of hyper.

use bytes::Bytes;
use chassis::problem::{MEDIA_TYPE, Problem};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// Makes the answer that tells a problem.
pub(super) fn response(problem: &Problem) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(problem.body()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    for (name, value) in problem.headers() {
        // Names and values are ours, and ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

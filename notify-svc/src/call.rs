//! One call of a target, and what its answer means.

use crate::payload;
use crate::target::Target;
use anyhow::Context;
use hmac::{Hmac, Mac};
use reqwest_rustls::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest_rustls::{Certificate, Client, Response, StatusCode, redirect};
use schema::{Alert, Timestamp};
use sha2::Sha256;
use std::time::Duration;

/// Headers of a notification. The signature is `v1=` and the HMAC-SHA256, in hexadecimal, of the time, a full
/// stop and the body.
pub(crate) const TIMESTAMP: &str = "fieldline-timestamp";
/// See [`TIMESTAMP`].
pub(crate) const SIGNATURE: &str = "fieldline-signature";
/// The alert's id, the same at each repetition.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Bytes of an answer that are read, so that the connection can be used again; nobody looks at them.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Says how a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The target has it.
    Taken,
    /// It never will: another try would be answered alike (dead letter).
    Refused(u16),
    /// It failed over it, and perhaps will again: a few tries (then dead letter).
    Failed(u16),
    /// It is away, overloaded or wrongly set up, whatever the alert (retry), for this long if it says so.
    Away(String, Option<Duration>),
}

/// Makes the client of a target: no redirects, no proxy, a timeout over everything.
///
/// # Errors
/// The client cannot be made (stop).
pub(crate) fn client(target: &Target) -> anyhow::Result<Client> {
    let mut builder =
        Client::builder().redirect(redirect::Policy::none()).no_proxy().timeout(target.call_max);
    if let Some(file) = &target.ca_file {
        let pem = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let roots = Certificate::from_pem_bundle(&pem).with_context(|| format!("use {}", file.display()))?;
        builder = builder.tls_certs_only(roots);
    }
    builder.build().with_context(|| format!("make the client of target {}", target.name))
}

/// Tells the target one alert.
pub(crate) async fn call(client: &Client, target: &Target, alert: &Alert, record: &[u8]) -> Outcome {
    let body = payload::body(target.format, alert, record, target.routing_key.expose());
    let seconds = Timestamp::now().as_micros() / 1_000_000;
    let mut request = client
        .post(target.url.expose())
        .header(CONTENT_TYPE, "application/json")
        .header(IDEMPOTENCY_KEY, alert.alert_id.to_string())
        .header(TIMESTAMP, seconds);
    if let Some(key) = &target.hmac_key {
        request = request.header(SIGNATURE, sign(key.expose().as_bytes(), seconds, &body));
    }
    match request.body(body).send().await {
        Ok(response) => {
            let outcome = outcome(response.status(), response.headers().get(RETRY_AFTER));
            drain(response).await;
            outcome
        }
        // The text of such an error may name the URL, which may be a secret.
        Err(error) => Outcome::Away(failure(&error.without_url()), None),
    }
}

/// Signs a body of that time.
///
/// # Panics
/// Never: HMAC takes a key of any length.
pub fn sign(key: &[u8], seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn outcome(status: StatusCode, retry_after: Option<&HeaderValue>) -> Outcome {
    let seconds = || retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    match status.as_u16() {
        200..300 => Outcome::Taken,
        // Too busy, or a proxy that does not reach it.
        408 | 425 | 429 | 502..505 => {
            Outcome::Away(format!("answered {status}"), seconds().map(Duration::from_secs))
        }
        // Its URL, its keys or its rights have to be mended, and then it takes what waits.
        100..200 | 300..400 | 401 | 403 | 404 | 405 | 407 => {
            Outcome::Away(format!("answered {status}"), None)
        }
        refused @ 400..500 => Outcome::Refused(refused),
        failed => Outcome::Failed(failed),
    }
}

async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

fn failure(error: &reqwest_rustls::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_any_other_implementation() {
        // Computed independently: printf '1767323045.{"a":1}' | openssl dgst -sha256 -hmac K3Y
        let signature = sign(b"K3Y", 1_767_323_045, br#"{"a":1}"#);
        assert_eq!(signature, "v1=1bb1117e1a7b035e36445375eca8113035614298b2998ec48f405bab7772f801");
    }

    #[test]
    fn answers_mean_what_another_try_would_bring() {
        let of = |status: u16| outcome(StatusCode::from_u16(status).unwrap(), None);
        for status in [200, 201, 202, 204] {
            assert_eq!(of(status), Outcome::Taken);
        }
        for status in [400, 409, 410, 413, 415, 422] {
            assert_eq!(of(status), Outcome::Refused(status));
        }
        for status in [500, 501, 507, 599] {
            assert_eq!(of(status), Outcome::Failed(status));
        }
        for status in [301, 302, 401, 403, 404, 408, 425, 429, 502, 503, 504] {
            assert!(matches!(of(status), Outcome::Away(_, None)), "{status}");
        }
        let asked = |text| outcome(StatusCode::TOO_MANY_REQUESTS, Some(&HeaderValue::from_static(text)));
        assert!(matches!(asked("7"), Outcome::Away(_, Some(wait)) if wait == Duration::from_secs(7)));
        assert!(matches!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), Outcome::Away(_, None)));
        assert!(matches!(asked("-1"), Outcome::Away(_, None)));
    }
}

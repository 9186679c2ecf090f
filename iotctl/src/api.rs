//! The REST interfaces of a running installation, as far as the command line uses them.

use crate::services::Service;
use crate::state::Ports;
use anyhow::{Context as _, Result};
use reqwest_rustls::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Longest time for one request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for one that a person waits for, such as a large import.
const LONG_REQUEST_TIME_MAX: Duration = Duration::from_secs(600);

/// Where the three services answer, and a token for them.
pub struct Api {
    client: Client,
    token: String,
    /// Base URL of device-svc.
    pub devices: String,
    /// Base URL of threshold-svc.
    pub thresholds: String,
    /// Base URL of query-svc.
    pub queries: String,
}

/// A device to register.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewDevice<'a> {
    /// Its identity: the certificate's common name.
    pub sensor_id: &'a str,
    /// Its name for people.
    pub display_name: &'a str,
    /// Its kind.
    pub device_type: &'a str,
    /// Where it stands.
    pub zone_id: &'a str,
    /// Format of its payloads.
    pub codec: &'a str,
    /// SHA-256 of its certificates' DER, hex.
    pub fingerprints: Vec<String>,
}

/// A threshold to watch.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewThreshold<'a> {
    /// The sensor.
    pub sensor_id: &'a str,
    /// Which of them.
    pub metric: &'a str,
    /// Below it is a violation.
    pub min: f64,
    /// Above it is a violation.
    pub max: f64,
    /// How bad that is.
    pub severity: &'a str,
    /// Why, for people.
    pub description: &'a str,
}

impl Api {
    /// Describes the services of a local installation. Nothing is sent yet.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn local(ports: Ports, token: String) -> Result<Self> {
        Ok(Self {
            client: client(Some(Vec::new()))?,
            token,
            devices: ports.rest(Service::DEVICE),
            thresholds: ports.rest(Service::THRESHOLD),
            queries: ports.rest(Service::QUERY),
        })
    }

    /// Registers a device, or adds the fingerprints to the one that is registered; says whether it is new.
    ///
    /// # Errors
    /// device-svc does not answer or refuses.
    pub async fn register(&self, device: &NewDevice<'_>) -> Result<bool> {
        let collection = format!("{}/api/v1/devices", self.devices);
        let what = || format!("register {}", device.sensor_id);
        let response =
            self.send(Method::POST, &collection, Some(&json!(device)), None).await.with_context(what)?;
        if response.status() != StatusCode::CONFLICT {
            accept(response).await.with_context(what)?;
            return Ok(true);
        }
        let resource = format!("{collection}/{}", device.sensor_id);
        let response = self.send(Method::GET, &resource, None, None).await.with_context(what)?;
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let registered = accept(response).await.with_context(what)?;
        let known = strings(&registered["fingerprints"]);
        let own: Vec<&String> = device.fingerprints.iter().filter(|own| !known.contains(own)).collect();
        if !own.is_empty() {
            // Everything else stays as its operator has it.
            let mut changed = json!({ "fingerprints": known.iter().chain(own).collect::<Vec<_>>() });
            for field in ["displayName", "deviceType", "zoneId"] {
                changed[field] = registered[field].clone();
            }
            let response = self.send(Method::PUT, &resource, Some(&changed), etag.as_deref()).await;
            accept(response.with_context(what)?).await.with_context(what)?;
        }
        Ok(false)
    }

    /// Creates a threshold unless its sensor and metric have one; says whether it did.
    ///
    /// # Errors
    /// threshold-svc does not answer or refuses.
    pub async fn watch(&self, threshold: &NewThreshold<'_>) -> Result<bool> {
        let what = || format!("create the threshold of {}", threshold.sensor_id);
        let collection = format!("{}/api/v1/thresholds", self.thresholds);
        let of_sensor = format!("{collection}?sensorId={}", threshold.sensor_id);
        let listed = self.get(&of_sensor).await.with_context(what)?;
        if resources(&listed).iter().any(|known| known["metric"] == threshold.metric) {
            return Ok(false);
        }
        let response =
            self.send(Method::POST, &collection, Some(&json!(threshold)), None).await.with_context(what)?;
        accept(response).await.with_context(what)?;
        Ok(true)
    }

    /// Describes a service elsewhere, which answers at that URL; over https its certificate must chain to an
    /// authority of the file, or of the system.
    ///
    /// # Errors
    /// The file has no certificates, or the HTTP client cannot be made.
    pub fn at(url: &str, ca_file: Option<&Path>, token: String) -> Result<Self> {
        let roots = match ca_file {
            Some(file) => Some(authorities(file)?),
            // Where none is needed, the system's are not looked for: it may have none.
            None if url.starts_with("http://") => Some(Vec::new()),
            None => None,
        };
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self {
            client: client(roots)?,
            token,
            devices: url.clone(),
            thresholds: url.clone(),
            queries: url,
        })
    }

    /// Makes a request and returns what it is answered with.
    ///
    /// # Errors
    /// The service does not answer, or refuses: [`Refusal`].
    pub async fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Value> {
        let request = self.request(method, url, body, None).timeout(LONG_REQUEST_TIME_MAX);
        accept(request.send().await.with_context(|| format!("send a request to {url}"))?).await
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// The service does not answer or refuses.
    pub async fn get(&self, url: &str) -> Result<Value> {
        accept(self.send(Method::GET, url, None, None).await?).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
        etag: Option<&str>,
    ) -> Result<Response> {
        let request = self.request(method, url, body, etag);
        request.send().await.with_context(|| format!("send a request to {url}"))
    }

    fn request(&self, method: Method, url: &str, body: Option<&Value>, etag: Option<&str>) -> RequestBuilder {
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        request
    }
}

/// Makes an HTTP client that believes these authorities, or the system's.
fn client(roots: Option<Vec<Certificate>>) -> Result<Client> {
    let builder = Client::builder().timeout(REQUEST_TIME_MAX).no_proxy();
    let builder = match roots {
        Some(roots) => builder.tls_certs_only(roots),
        None => builder,
    };
    builder.build().context("make an HTTP client")
}

fn authorities(file: &Path) -> Result<Vec<Certificate>> {
    let pem = crate::files::read(file)?;
    let roots =
        Certificate::from_pem_bundle(pem.as_bytes()).with_context(|| format!("use {}", file.display()))?;
    anyhow::ensure!(!roots.is_empty(), "{} has no certificates", file.display());
    Ok(roots)
}

/// Returns the elements of a page.
#[must_use]
pub fn resources(page: &Value) -> &[Value] {
    page["resources"].as_array().or_else(|| page.as_array()).map_or(&[], Vec::as_slice)
}

/// A request that a service refuses.
#[derive(Debug, thiserror::Error)]
#[error("{url} answers {status}: {body}")]
pub struct Refusal {
    url: String,
    /// The status.
    pub status: StatusCode,
    body: String,
}

impl Refusal {
    fn problem(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Returns what went wrong, in the service's words.
    #[must_use]
    pub fn detail(&self) -> String {
        self.problem()["detail"].as_str().unwrap_or(&self.body).to_owned()
    }

    /// Returns each bad field, and what it must be.
    #[must_use]
    pub fn fields(&self) -> Vec<(String, String)> {
        let problem = self.problem();
        let text = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let errors = problem["errors"].as_array().into_iter().flatten();
        errors.map(|error| (text(error, "field"), text(error, "detail"))).collect()
    }
}

/// Returns a success's body, and a refusal's `problem+json` as an error.
async fn accept(response: Response) -> Result<Value> {
    let (status, url) = (response.status(), response.url().to_string());
    let body = response.text().await.context("read the answer")?;
    if !status.is_success() {
        return Err(Refusal { url, status, body }.into());
    }
    if body.is_empty() {
        Ok(Value::Null)
    } else {
        serde_json::from_str(&body).context("read the answer as JSON")
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

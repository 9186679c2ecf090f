//! A REST service in this process on a real socket, and callers with good and bad tokens.

use chassis::{Chassis, auth, http};
use iotctl::token::{AUDIENCE, Claims, ISSUER, Signer};
use jsonwebtoken::{Algorithm, EncodingKey, Header, decode_header, encode};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Validity of a test's token; longer than any test.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);

/// A signing key in a folder that goes with this value.
pub struct Tokens {
    folder: TempDir,
    signer: Signer,
}

impl Tokens {
    /// Makes a key and its JWKS.
    ///
    /// # Panics
    /// The folder cannot be written.
    pub fn create() -> Self {
        let folder = TempDir::new().unwrap();
        Self { signer: Signer::open_or_create(folder.path()).unwrap(), folder }
    }

    /// Returns the settings that a service is given.
    pub fn settings(&self) -> auth::Settings {
        auth::Settings::new(self.signer.jwks_file(), ISSUER, AUDIENCE)
    }

    /// Names the JWKS file, which the service of [`Tokens::settings`] follows.
    pub fn jwks_file(&self) -> PathBuf {
        self.signer.jwks_file()
    }

    /// Signs a token with that role.
    ///
    /// # Panics
    /// The key does not sign.
    pub fn of(&self, role: &str) -> String {
        self.signer.mint("ada", &[role], TOKEN_TTL).unwrap()
    }

    /// Makes one token for each way in which a token can be wrong; all claim to be of an admin.
    ///
    /// # Panics
    /// A key does not sign.
    pub fn bad(&self) -> Vec<(&'static str, String)> {
        let good = Claims::new("mallory", &["admin"], TOKEN_TTL);
        let sign = |change: fn(&mut Claims)| {
            let mut claims = good.clone();
            change(&mut claims);
            self.signer.sign(&claims).unwrap()
        };
        let kid = decode_header(sign(|_| {})).unwrap().kid;
        let other = Self::create();
        let other_key = std::fs::read(other.folder.path().join("signing.key")).unwrap();
        let with_our_kid = |algorithm, key: &EncodingKey| {
            let mut header = Header::new(algorithm);
            header.kid.clone_from(&kid);
            encode(&header, &good, key).unwrap()
        };
        // The classic forgery: what everybody may read, taken for a shared secret.
        let jwks = std::fs::read(self.signer.jwks_file()).unwrap();
        let whole = sign(|_| {});
        let (message, signature) = whole.rsplit_once('.').unwrap();
        let foreign_claims = sign(|claims| claims.sub = "root".to_owned());
        let (foreign_message, _) = foreign_claims.rsplit_once('.').unwrap();
        let (_, payload) = message.split_once('.').unwrap();
        vec![
            ("empty", String::new()),
            ("nonsense", "a.b.c".to_owned()),
            ("too long", "a".repeat(20_000)),
            ("expired", sign(|claims| claims.exp -= 2 * 3_600)),
            ("not valid yet", sign(|claims| claims.nbf += 3_600)),
            ("for another audience", sign(|claims| claims.aud = "elsewhere".to_owned())),
            ("of another issuer", sign(|claims| claims.iss = "elsewhere".to_owned())),
            ("of another key", other.of("admin")),
            (
                "of another key under our name",
                with_our_kid(Algorithm::ES256, &EncodingKey::from_ec_pem(&other_key).unwrap()),
            ),
            (
                "HS256 with the JWKS as its secret",
                with_our_kid(Algorithm::HS256, &EncodingKey::from_secret(&jwks)),
            ),
            // {"alg":"none"}
            ("unsigned", format!("eyJhbGciOiJub25lIn0.{payload}.")),
            ("with another one's signature", format!("{foreign_message}.{signature}")),
            ("without its signature", format!("{message}.")),
        ]
    }
}

/// A service that runs until this value is dropped.
pub struct Rest {
    /// Where it listens.
    pub listen: SocketAddr,
    base: String,
    client: Client,
    /// The tokens that it accepts.
    pub tokens: Tokens,
    /// Its chassis, to look at metrics and readiness.
    pub chassis: Chassis,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Rest {
    /// Starts a service and waits until it is ready and answers.
    ///
    /// # Panics
    /// It stops instead.
    pub async fn start<R>(run: impl Fn(http::Settings, auth::Settings, Chassis) -> R) -> Self
    where
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tokens = Tokens::create();
        let (chassis, port) = (Chassis::new(), crate::free_port());
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let task = tokio::spawn(run(http::Settings::plain(listen), tokens.settings(), chassis.clone()));
        // A pooled connection that the server is about to close would fail a request for no reason of the
        // service's.
        let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let rest = Self { listen, base: format!("http://{listen}"), client, tokens, chassis, task };
        crate::wait::until("a REST service that is ready", async || {
            assert!(!rest.task.is_finished(), "the service stopped at its start");
            let bound = tokio::net::TcpStream::connect(listen).await.is_ok();
            (bound && rest.chassis.readiness.closed().is_empty()).then_some(())
        })
        .await;
        rest
    }

    /// Prepares a request of an operator.
    ///
    /// # Panics
    /// The method is none.
    pub fn call(&self, method: &str, path: &str) -> Call {
        let request = self
            .client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.base));
        Call { request, token: Some(self.tokens.of("operator")) }
    }

    /// Sends a GET of an operator.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).send().await
    }

    /// Sends a POST of an operator.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path).json(body).send().await
    }

    /// Sends a PUT of an operator.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path).json(body).send().await
    }

    /// Sends a PATCH of an operator.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        let call = self.call("PATCH", path);
        call.body_as("application/merge-patch+json", body.to_string()).send().await
    }

    /// Sends a DELETE of an operator.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path).send().await
    }

    /// Asserts that the route answers 401 without a token and with each bad one.
    ///
    /// # Panics
    /// It answers something else.
    pub async fn assert_refuses_bad_tokens(&self, method: &str, path: &str) {
        let mut refused = vec![("absent", self.call(method, path).no_token().send().await)];
        for (what, token) in self.tokens.bad() {
            refused.push((what, self.call(method, path).token(token).send().await));
        }
        for (what, answer) in refused {
            let answer = answer.problem(401);
            let challenge = answer.header("www-authenticate").unwrap();
            let is_absent = ["absent", "empty"].contains(&what);
            let says = challenge.starts_with("Bearer ")
                && challenge.contains("error=\"invalid_token\"") != is_absent;
            assert!(says, "{method} {path}, token {what}: {challenge}");
        }
    }

    /// Asserts that the route answers 403 to each of the roles.
    ///
    /// # Panics
    /// It answers something else.
    pub async fn assert_refuses_roles(&self, method: &str, path: &str, roles: &[&str]) {
        for role in roles {
            // A body that nobody may look at: the role is asked for first.
            self.call(method, path).role(&self.tokens, role).json(&json!([])).send().await.problem(403);
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.chassis.shutdown.cancel();
        self.task.abort();
    }
}

/// A request in the making.
pub struct Call {
    request: RequestBuilder,
    token: Option<String>,
}

impl Call {
    /// Calls with that role instead.
    #[must_use]
    pub fn role(self, tokens: &Tokens, role: &str) -> Self {
        self.token(tokens.of(role))
    }

    /// Calls with that token instead.
    #[must_use]
    pub fn token(self, token: String) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Calls without a token.
    #[must_use]
    pub fn no_token(self) -> Self {
        Self { token: None, ..self }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// Sends JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Sends bytes, whatever they are, as JSON.
    #[must_use]
    pub fn body(self, bytes: impl Into<reqwest::Body>) -> Self {
        self.body_as("application/json", bytes)
    }

    /// Sends bytes as that media type.
    #[must_use]
    pub fn body_as(self, kind: &str, bytes: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.header("content-type", kind).body(bytes), ..self }
    }

    /// Sends the request.
    ///
    /// # Panics
    /// No answer comes, or one that is not JSON.
    pub async fn send(self) -> Answer {
        let request = match self.token {
            Some(token) => self.request.bearer_auth(token),
            None => self.request,
        };
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status, headers, body }
    }
}

/// What a service answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    /// The body; null when there is none.
    pub body: Value,
}

impl Answer {
    /// Returns a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts a status.
    ///
    /// # Panics
    /// It is another.
    pub fn ok(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}", self.body);
        self
    }

    /// Asserts a problem of that status, complete and in its media type.
    ///
    /// # Panics
    /// It is something else.
    pub fn problem(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{:?}", self.body);
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{:?}", self.body);
        self
    }

    /// Names the bad fields of a problem.
    ///
    /// # Panics
    /// It names none.
    pub fn bad_fields(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().expect("bad fields");
        errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
    }
}

//! Whom a REST service believes, and by which certificate it is believed, while both change.

use crate::EVER;
use chassis::rest::Settings;
use chassis::{Chassis, auth, http};
use query_svc::{Cache, Config};
use reqwest_rustls::{Certificate, Client};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::pki::TestPki;
use testkit::postgres::Database;
use testkit::rest::{Rest, Tokens};
use testkit::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

const PATH: &str = "/api/v1/readings/latest";

async fn start(
    change: impl Fn(http::Settings, auth::Settings) -> (http::Settings, auth::Settings),
) -> (Database, Rest) {
    chassis::install_tls_provider();
    let database = Database::create().await;
    let settings = database.settings();
    let cache = Cache { bytes_max: 1 << 20, open_age_max: EVER, closed_age_max: EVER };
    let rest = Rest::start(|http, auth, chassis| {
        let (http, auth) = change(http, auth);
        query_svc::run(Config { rest: Settings { http, auth, database: settings.clone() }, cache }, chassis)
    })
    .await;
    (database, rest)
}

async fn status(rest: &Rest, tokens: &Tokens) -> u16 {
    rest.call("GET", PATH).role(tokens, "analyst").send().await.status
}

fn gauge(chassis: &Chassis, name: &str) -> f64 {
    let families = chassis.registry.gather();
    families.iter().find(|family| family.name() == name).unwrap().get_metric()[0].get_gauge().get_value()
}

async fn gauge_is(rest: &Rest, name: &str, wanted: f64) {
    let look = async || (gauge(&rest.chassis, name).total_cmp(&wanted).is_eq()).then_some(());
    until(&format!("{name} {wanted}"), look).await;
}

#[tokio::test]
async fn keys_of_a_file_are_followed_and_a_broken_file_changes_nothing() {
    let (_database, rest) = start(|http, auth| (http, auth)).await;
    let (file, old) = (rest.tokens.jwks_file(), std::fs::read(rest.tokens.jwks_file()).unwrap());
    let next = Tokens::create();
    assert_eq!((status(&rest, &rest.tokens).await, status(&rest, &next).await), (200, 401));
    for broken in [&b"{"[..], b"", b"{\"keys\": []}"] {
        std::fs::write(&file, broken).unwrap();
        gauge_is(&rest, "auth_jwks_stale_flag", 1.0).await;
        assert_eq!(status(&rest, &rest.tokens).await, 200);
        std::fs::write(&file, &old).unwrap();
        gauge_is(&rest, "auth_jwks_stale_flag", 0.0).await;
    }
    std::fs::copy(next.jwks_file(), &file).unwrap();
    until("the new key", async || (status(&rest, &next).await == 200).then_some(())).await;
    assert_eq!(status(&rest, &rest.tokens).await, 401, "a key that was taken out opens nothing");
}

/// An identity provider's key server, which can be away.
struct KeyServer {
    url: String,
    jwks: Arc<Mutex<Option<Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn away() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (jwks, asked) = (Arc::<Mutex<Option<Vec<u8>>>>::default(), Arc::<AtomicUsize>::default());
        let server = Self { url, jwks: jwks.clone(), asked: asked.clone() };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
                asked.fetch_add(1, Ordering::SeqCst);
                let jwks = jwks.lock().await.clone();
                let (status, body) = jwks.map_or(("503 Away", Vec::new()), |jwks| ("200 OK", jwks));
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(&[head.into_bytes(), body].concat()).await.unwrap();
            }
        });
        server
    }

    async fn serve(&self, jwks: &Path) {
        *self.jwks.lock().await = Some(std::fs::read(jwks).unwrap());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn keys_of_a_url_are_waited_for_and_an_unknown_key_is_looked_for_once() {
    let (server, tokens) = (KeyServer::away().await, Tokens::create());
    let comes_back = async {
        until("two tries", async || (server.asked() >= 2).then_some(())).await;
        server.serve(&tokens.jwks_file()).await;
    };
    let (started, ()) =
        tokio::join!(start(|http, auth| (http, auth.with_url(&server.url, EVER))), comes_back);
    let (_database, rest) = started;
    let asked = server.asked();
    assert_eq!(status(&rest, &tokens).await, 200);
    assert_eq!(server.asked(), asked, "a known key needs no look");

    let next = Tokens::create();
    server.serve(&next.jwks_file()).await;
    assert_eq!(status(&rest, &next).await, 200, "the first token with a new key");
    assert_eq!(server.asked(), asked + 1);
    for stranger in [Tokens::create(), Tokens::create(), tokens] {
        assert_eq!(status(&rest, &stranger).await, 401);
    }
    assert_eq!(server.asked(), asked + 1, "strangers make nobody look again and again");
}

#[tokio::test]
async fn keys_stay_while_their_server_is_away_and_are_followed_when_it_is_back() {
    let (server, tokens) = (KeyServer::away().await, Tokens::create());
    server.serve(&tokens.jwks_file()).await;
    let often = Duration::from_millis(50);
    let (_database, rest) = start(|http, auth| (http, auth.with_url(&server.url, often))).await;
    *server.jwks.lock().await = None;
    gauge_is(&rest, "auth_jwks_stale_flag", 1.0).await;
    assert_eq!(status(&rest, &tokens).await, 200);
    assert!(rest.chassis.readiness.is_ready());
    let next = Tokens::create();
    server.serve(&next.jwks_file()).await;
    gauge_is(&rest, "auth_jwks_stale_flag", 0.0).await;
    until("the new key", async || (status(&rest, &next).await == 200).then_some(())).await;
    assert_eq!(status(&rest, &tokens).await, 401);
}

#[tokio::test]
async fn rest_over_tls_shows_a_new_certificate_without_a_restart() {
    let (pki, next) = (TestPki::create(), TestPki::create());
    let (cert, key) = (pki.path("server.pem"), pki.path("server.key"));
    let (_database, rest) = start(|http, auth| (http.with_tls(cert.clone(), key.clone()), auth)).await;
    // When it ends is on `/metrics`, before anybody is refused for it.
    let ends_in_s = gauge(&rest.chassis, "http_tls_ends_timestamp_seconds")
        - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((396.0..398.0).contains(&(ends_in_s / 86_400.0)), "{ends_in_s} s");
    let url = format!("https://{}{PATH}", rest.listen);
    let token = rest.tokens.of("analyst");
    let get = async |root: String| {
        // A client of its own for each request: a kept connection would not show a new certificate.
        let root = Certificate::from_pem(root.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([root]).no_proxy().build().unwrap();
        client.get(&url).bearer_auth(&token).send().await.map(|answer| answer.status().as_u16()).ok()
    };
    assert_eq!((get(pki.root_pem()).await, get(next.root_pem()).await), (Some(200), None));
    // Plain text gets no answer.
    let mut plain = tokio::net::TcpStream::connect(rest.listen).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");

    std::fs::copy(next.path("server.key"), &key).unwrap();
    gauge_is(&rest, "http_tls_files_stale_flag", 1.0).await;
    assert_eq!(get(pki.root_pem()).await, Some(200), "a key without its certificate changes nothing");
    std::fs::copy(next.path("server.pem"), &cert).unwrap();
    until("the new certificate", async || get(next.root_pem()).await.filter(|status| *status == 200)).await;
    assert_eq!(get(pki.root_pem()).await, None);
    gauge_is(&rest, "http_tls_files_stale_flag", 0.0).await;
}

//! The whole system as processes, on servers named by the environment.
//!
//! Every [`System`] has its own database, topics, certificates and ports, so systems run side by side.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod fleet;
mod instance;
mod publisher;
mod service;

pub use fleet::{Acknowledged, Fleet, Member};
pub use instance::Instance;
pub use iotctl::services::Service;
pub use publisher::Publisher;
pub use service::program;

use iotctl::pki::DeviceCertificate;
use iotctl::services::Protocol;
use iotctl::token::Signer;
use serde_json::{Value, json};
use service::ADMIN;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;
use tempfile::TempDir;
use testkit::kafka::Kafka;
use testkit::pki::TestPki;
use testkit::postgres::Database;

/// Holds a message against the JSON Schema that consumers are given, and returns what is wrong with it.
///
/// # Panics
/// There is no such schema.
pub fn complaints(schema: &str, message: &Value) -> Vec<String> {
    let path = format!("{}/../schema/json/{schema}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    validator.iter_errors(message).map(|error| error.to_string()).collect()
}

/// The services, each a process, and what they stand on.
pub struct System {
    /// Its topics.
    pub kafka: Kafka,
    /// Its database.
    pub database: Database,
    /// Its certificates.
    pub pki: TestPki,
    /// Port of the gateway's MQTT listener.
    pub mqtt_port: u16,
    /// Port of the gateway's HTTPS listener.
    pub http_port: u16,
    folder: TempDir,
    /// By service and the variable of the listener.
    ports: BTreeMap<(&'static str, &'static str), u16>,
    processes: BTreeMap<&'static str, Child>,
    client: reqwest::Client,
    token: String,
}

impl System {
    /// Starts everything and waits until every service is ready.
    ///
    /// # Panics
    /// A service does not become ready; its log is printed.
    pub async fn start() -> Self {
        Self::start_on(Kafka::create().await).await
    }

    /// Does so on those topics, whose broker may be the test's own.
    ///
    /// # Panics
    /// As [`System::start`].
    pub async fn start_on(kafka: Kafka) -> Self {
        Self::start_without(&[], kafka, Database::create().await).await
    }

    /// Does so on that database, too, and leaves out services in whose place something else works.
    ///
    /// # Panics
    /// As [`System::start`].
    pub async fn start_without(absent: &[&Service], kafka: Kafka, database: Database) -> Self {
        let folder = TempDir::new().unwrap();
        let signer = Signer::open_or_create(folder.path()).unwrap();
        let token = signer.mint("e2e", &["admin"], Duration::from_secs(3_600)).unwrap();
        let mut system = Self {
            kafka,
            database,
            pki: TestPki::create(),
            mqtt_port: testkit::free_port(),
            http_port: testkit::free_port(),
            folder,
            ports: BTreeMap::new(),
            processes: BTreeMap::new(),
            // Without a pool: a server may close an idle connection at the moment of the next request.
            client: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap(),
            token,
        };
        for service in Service::required() {
            let listeners = service.listeners.iter();
            system.ports.extend(listeners.map(|one| match one.protocol {
                Protocol::Mqtt => ((service.name, one.variable), system.mqtt_port),
                Protocol::Https => ((service.name, one.variable), system.http_port),
                Protocol::Rest => ((service.name, one.variable), testkit::free_port()),
            }));
            system.ports.insert((service.name, ADMIN), testkit::free_port());
        }
        let present =
            Service::required().filter(|service| absent.iter().all(|absent| absent.name != service.name));
        for service in present.clone() {
            system.spawn(service);
        }
        for service in present {
            system.wait_ready(service).await;
        }
        system
    }

    /// Starts notify-svc with these targets, and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready; its log is printed.
    pub async fn start_notify(&mut self, targets: &Value) {
        let folder = self.folder.path().join("notify");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("targets.json"), json!({ "targets": targets }).to_string()).unwrap();
        self.ports.insert((Service::NOTIFY.name, ADMIN), testkit::free_port());
        self.restart(Service::NOTIFY).await;
    }

    fn spawn(&mut self, service: &Service) {
        let child = service::spawn(self, service);
        self.processes.insert(service.name, child);
    }

    /// Ends a service as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self, service: &Service) {
        let mut child = self.processes.remove(service.name).expect("service runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a killed service again and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready; its log is printed.
    pub async fn restart(&mut self, service: &Service) {
        self.spawn(service);
        self.wait_ready(service).await;
    }

    /// Waits until a service is ready.
    ///
    /// # Panics
    /// It does not become ready; its log is printed.
    pub async fn wait_ready(&self, service: &Service) {
        let url = format!("http://127.0.0.1:{}/readyz", self.port(service, ADMIN));
        testkit::wait::until(
            &format!("{} to be ready, see its log below\n{}", service.name, self.log(service)),
            async || {
                let answer = self.client.get(&url).send().await.ok()?;
                answer.status().is_success().then_some(())
            },
        )
        .await;
    }

    fn log_file(&self, service: &Service) -> PathBuf {
        self.folder.path().join(format!("{}.log", service.name))
    }

    /// Returns what a service has logged.
    pub fn log(&self, service: &Service) -> String {
        std::fs::read_to_string(self.log_file(service)).unwrap_or_default()
    }

    /// Lists the ports of a service that speak plain HTTP: that for the orchestrator, and REST where there is
    /// one.
    pub fn http_ports(&self, service: &Service) -> Vec<u16> {
        let rest = service.listener(Protocol::Rest).map(|listener| self.port(service, listener.variable));
        [self.port(service, ADMIN)].into_iter().chain(rest).collect()
    }

    fn port(&self, service: &Service, variable: &str) -> u16 {
        self.ports[&(service.name, variable)]
    }

    /// Returns what a service serves at `/metrics`.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn metrics(&self, service: &Service) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.port(service, ADMIN));
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Returns the resident memory of a service, in KiB.
    ///
    /// # Panics
    /// It does not run.
    pub fn resident_kib(&self, service: &Service) -> u64 {
        let status = format!("/proc/{}/status", self.processes[service.name].id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn url(&self, service: &Service, path: &str) -> String {
        let listener = service.listener(Protocol::Rest).expect("a REST service");
        format!("http://127.0.0.1:{}{path}", self.port(service, listener.variable))
    }

    /// Sends a request to a REST service with an admin's token; returns status and body.
    ///
    /// # Panics
    /// No answer, or one that is not JSON.
    pub async fn rest(
        &self,
        service: &Service,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, self.url(service, path)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    /// Runs `iotctl` as an admin of this system.
    ///
    /// # Panics
    /// It is not built.
    pub async fn iotctl(&self, arguments: &[&str]) -> std::process::Output {
        let token = self.folder.path().join("token");
        std::fs::write(&token, &self.token).unwrap();
        let mut command =
            tokio::process::Command::from(testkit::process::command(service::program("iotctl")));
        command.current_dir(self.folder.path()).env("FIELDLINE_TOKEN_FILE", token);
        command.env("FIELDLINE_THRESHOLDS_URL", self.url(Service::THRESHOLD, ""));
        command.env("FIELDLINE_QUERIES_URL", self.url(Service::QUERY, ""));
        command.args(arguments).output().await.unwrap()
    }

    /// Returns a metric of a service under one label; 0 while it has none.
    ///
    /// # Panics
    /// The service does not answer.
    pub async fn metric(&self, service: &Service, name: &str, label: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.port(service, ADMIN));
        let page = self.client.get(&url).send().await.unwrap().text().await.unwrap();
        let quoted = format!("\"{label}\"");
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&quoted));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Registers a device with a new certificate.
    ///
    /// # Panics
    /// The registry refuses it.
    pub async fn register(&self, sensor_id: &str) -> DeviceCertificate {
        self.register_as(sensor_id, "json").await
    }

    /// Registers a device of any codec with a new certificate.
    ///
    /// # Panics
    /// The registry refuses it.
    pub async fn register_as(&self, sensor_id: &str, codec: &str) -> DeviceCertificate {
        let certificate = self.pki.device(sensor_id);
        let device = json!({
            "sensorId": sensor_id, "displayName": sensor_id, "deviceType": "THERMOSTAT", "zoneId": "kitchen",
            "codec": codec, "fingerprints": [certificate.fingerprint_sha256_hex],
        });
        let (status, answer) = self.rest(Service::DEVICE, "POST", "/api/v1/devices", Some(&device)).await;
        assert_eq!(status, 201, "{answer}");
        certificate
    }

    /// Creates a threshold and returns it as the service shows it.
    ///
    /// # Panics
    /// The service refuses it.
    pub async fn create_threshold(&self, sensor_id: &str, metric: &str, max: f64) -> Value {
        let threshold =
            json!({ "sensorId": sensor_id, "metric": metric, "max": max, "severity": "critical" });
        let (status, answer) =
            self.rest(Service::THRESHOLD, "POST", "/api/v1/thresholds", Some(&threshold)).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// Returns a publisher for a registered device. It connects when it first publishes.
    pub fn publisher(&self, sensor_id: &str, certificate: DeviceCertificate) -> Publisher {
        Publisher::new(self.mqtt_port, self.pki.root_pem(), sensor_id, certificate)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for service in Service::ALL.into_iter().filter(|service| self.log_file(service).exists()) {
                eprintln!("=== {} ===\n{}", service.name, self.log(service));
            }
        }
    }
}

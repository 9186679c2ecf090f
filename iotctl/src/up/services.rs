//! The services of the local platform: their programs, and the environment each of them is given.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::database;
use crate::pki::Pki;
use crate::state::{Ports, State};
use crate::token::{AUDIENCE, ISSUER};

/// Variables that a service keeps of this process's environment; anything else might be meant for another program.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "LOG", "RUST_BACKTRACE"];

/// Start order: each after those it feeds, so that nothing is published before somebody listens. The stop order is its reverse.
pub(super) const NAMES: [&str; 7] =
    ["query-svc", "cdc-svc", "alerting-svc", "command-svc", "device-svc", "threshold-svc", "gateway"];
/// The service that runs when it was asked for.
pub(super) const LAKE: &str = "lake-svc";
/// How long a local reading waits for its file: somebody is looking.
const LAKE_FILE_AGE_MS: &str = "10000";
/// The process that publishes for the demo devices.
pub(super) const SIMULATOR: &str = "simulator";

/// A process to start.
pub(super) struct Service {
    /// Its name, also of its log and pid file.
    pub(super) name: &'static str,
    /// Its program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Its whole environment.
    pub(super) environment: Vec<(String, String)>,
}

/// What the services of one machine share.
pub(super) struct Local<'a> {
    /// The state folder.
    pub(super) state: &'a State,
    /// The ports.
    pub(super) ports: Ports,
    /// The certificates.
    pub(super) pki: &'a Pki,
    /// The file that tokens are verified with.
    pub(super) jwks: PathBuf,
    /// The CA of a database that is not ours.
    pub(super) database_ca: Option<PathBuf>,
}

impl Local<'_> {
    /// Describes the services that always run, in start order.
    pub(super) fn all(&self) -> Result<Vec<Service>> {
        NAMES.into_iter().map(|name| self.service(name)).collect()
    }

    /// Describes the lake, whose folder it makes: the service itself takes one that is missing for one that is not mounted.
    pub(super) fn lake(&self) -> Result<Service> {
        std::fs::create_dir_all(self.state.path("lake")).context("make the folder of the lake")?;
        self.service(LAKE)
    }

    /// Describes the simulator for the devices `sensors`.
    pub(super) fn simulator(&self, sensors: &[&str]) -> Result<Service> {
        let mut arguments = vec!["simulate".to_owned()];
        arguments.extend(sensors.iter().flat_map(|sensor| ["--sensor".to_owned(), (*sensor).to_owned()]));
        let mut environment = inherited();
        environment.push(("FIELDLINE_STATE".to_owned(), display(&self.state.path(""))));
        environment.push(("FIELDLINE_PORT_OFFSET".to_owned(), self.ports.offset().to_string()));
        Ok(Service { name: SIMULATOR, program: own_program()?, arguments, environment })
    }

    fn service(&self, name: &'static str) -> Result<Service> {
        let program = own_program()?.with_file_name(name);
        ensure!(program.exists(), "{} is not there: `make up` builds it", program.display());
        let listen = |port: &str| format!("127.0.0.1:{}", self.ports.of(port));
        let mut own = vec![
            ("ADMIN_LISTEN", listen(&format!("{name} admin"))),
            ("KAFKA_BOOTSTRAP_SERVERS", listen("Kafka")),
        ];
        if database::SERVICES.contains(&name) {
            own.push(("DATABASE_URL_FILE", display(&database::url_file(self.state, name))));
            own.extend(self.database_ca.iter().map(|ca| ("DATABASE_CA_FILE", display(ca))));
        }
        match name {
            "gateway" => {
                own.push(("MQTT_LISTEN", listen("MQTT")));
                own.push(("HTTP_LISTEN", listen("HTTPS")));
                own.push(("TLS_CERT_FILE", display(&self.state.path("pki/server.pem"))));
                own.push(("TLS_KEY_FILE", display(&self.state.path("pki/server.key"))));
                own.push(("TLS_CLIENT_CA_FILE", display(&self.pki.device_ca_file())));
                own.push(("SPOOL_DIR", display(&self.state.path("spool"))));
                // Old series can be replayed here with their own timestamps.
                own.push(("READING_AGE_DAYS_MAX", "10000".to_owned()));
                own.extend(self.tokens());
            }
            "device-svc" | "threshold-svc" | "query-svc" => {
                own.push(("HTTP_LISTEN", listen(name)));
                own.extend(self.tokens());
            }
            LAKE => {
                own.push(("LAKE_URL", format!("file://{}", display(&self.state.path("lake")))));
                own.push(("FILE_AGE_MS_MAX", LAKE_FILE_AGE_MS.to_owned()));
            }
            "alerting-svc" => own.push(("INSTANCE_ID", "local".to_owned())),
            _ => {}
        }
        let mut environment = inherited();
        environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(Service { name, program, arguments: Vec::new(), environment })
    }

    /// Says whose tokens are taken: those of `iotctl token`.
    fn tokens(&self) -> [(&'static str, String); 3] {
        [
            ("JWT_JWKS_FILE", display(&self.jwks)),
            ("JWT_ISSUER", ISSUER.to_owned()),
            ("JWT_AUDIENCE", AUDIENCE.to_owned()),
        ]
    }
}

fn inherited() -> Vec<(String, String)> {
    let text = |name: &str| Some((name.to_owned(), std::env::var_os(name)?.into_string().ok()?));
    INHERITED.into_iter().filter_map(text).collect()
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("find the programs beside this one")
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

//! The programs of the local platform, and the environment that each of them is given.

use crate::database;
use crate::pki::Pki;
use crate::services::{Installation, Service};
use crate::state::{KAFKA_PORT, Ports, State};
use anyhow::{Context as _, Result, ensure};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Variables that a service keeps of this process's environment; anything else might be meant for another
/// program.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "LOG", "RUST_BACKTRACE"];

/// Mode of a folder that a service writes to: readings are its user's alone.
const FOLDER_MODE: u32 = 0o700;

/// The process that publishes for the demo devices.
pub(super) const SIMULATOR: &str = "simulator";

/// A process to start.
pub(super) struct Program {
    /// Its name, also of its log and pid file.
    pub(super) name: &'static str,
    /// The file.
    pub(super) path: PathBuf,
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
    /// Describes the required services and the chosen ones in the order of their start: each after those it
    /// feeds, so that nothing is published before somebody listens. The stop order is its reverse.
    pub(super) fn services(&self, chosen: &[&'static Service]) -> Result<Vec<Program>> {
        let is_chosen = |service: &&Service| {
            !service.is_optional || chosen.iter().any(|chosen| chosen.name == service.name)
        };
        Service::ALL.into_iter().rev().filter(is_chosen).map(|service| self.service(service)).collect()
    }

    /// Describes the simulator for the devices `sensors`.
    pub(super) fn simulator(&self, sensors: &[&str]) -> Result<Program> {
        let mut arguments = vec!["simulate".to_owned()];
        arguments.extend(sensors.iter().flat_map(|sensor| ["--sensor".to_owned(), (*sensor).to_owned()]));
        let mut environment = inherited();
        environment.push(("FIELDLINE_STATE".to_owned(), display(&self.state.path(""))));
        environment.push(("FIELDLINE_PORT_OFFSET".to_owned(), self.ports.offset().to_string()));
        Ok(Program { name: SIMULATOR, path: own_program()?, arguments, environment })
    }

    /// Describes a service, whose folders it makes: one that is missing is taken for one that is not mounted.
    fn service(&self, service: &Service) -> Result<Program> {
        let path = own_program()?.with_file_name(service.name);
        ensure!(path.exists(), "{} is not there: `make up` builds it", path.display());
        for name in service.folders {
            let folder = self.state.path(name);
            let private = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder);
            private.with_context(|| format!("make folder {}", folder.display()))?;
        }
        let listen = |port| format!("127.0.0.1:{}", self.ports.at(port));
        let mut own = vec![("ADMIN_LISTEN", listen(service.admin_port))];
        own.extend(service.listeners.iter().map(|listener| (listener.variable, listen(listener.port))));
        if service.has_kafka() {
            own.push(("KAFKA_BOOTSTRAP_SERVERS", listen(KAFKA_PORT)));
        }
        if service.has_database() {
            own.push(("DATABASE_URL_FILE", display(&database::url_file(self.state, service.name))));
            own.extend(self.database_ca.iter().map(|ca| ("DATABASE_CA_FILE", display(ca))));
        }
        let installation = Installation {
            folder: &self.state.path(""),
            tls_cert: &self.state.path("pki/server.pem"),
            tls_key: &self.state.path("pki/server.key"),
            device_ca: &self.pki.device_ca_file(),
            jwks: &self.jwks,
        };
        own.extend((service.settings)(&installation));
        let mut environment = inherited();
        environment.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Ok(Program { name: service.name, path, arguments: Vec::new(), environment })
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

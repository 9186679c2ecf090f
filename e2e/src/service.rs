//! The process of a service, and the settings that it is given.

use crate::System;
use iotctl::services::{Installation, Service};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// The variable of the listener that every service has.
pub(crate) const ADMIN: &str = "ADMIN_LISTEN";

/// Finds a service's program: beside this test's own, or in the folder `PROGRAMS`, which may be that of an
/// optimised build.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let set = std::env::vars_os().find_map(|(name, value)| (name == "PROGRAMS").then_some(value));
    let folder = set.map_or_else(|| own.parent().and_then(Path::parent).unwrap().to_owned(), PathBuf::from);
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not built: run `make test`", program.display());
    program
}

/// Starts a program with its output in the system's folder.
pub(crate) fn spawn(system: &System, service: &Service) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(system.log_file(service)).unwrap();
    let installation = Installation {
        folder: system.folder.path(),
        tls_cert: &system.pki.path("server.pem"),
        tls_key: &system.pki.path("server.key"),
        device_ca: &system.pki.path("device-ca.pem"),
        jwks: &system.folder.path().join("jwks.json"),
    };
    let listeners = service.listeners.iter().map(|listener| listener.variable).chain([ADMIN]);
    testkit::process::command(program(service.name))
        .envs((service.settings)(&installation))
        .envs(listeners.map(|variable| (variable, format!("127.0.0.1:{}", system.port(service, variable)))))
        .env("KAFKA_BOOTSTRAP_SERVERS", &system.kafka.bootstrap)
        .env("KAFKA_TOPIC_PREFIX", &system.kafka.prefix)
        .env("DATABASE_URL", system.database.url())
        // A slot belongs to a whole server, which systems share.
        .env("CDC_SLOT", format!("e2e_{}", system.kafka.prefix.replace('-', "_")))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

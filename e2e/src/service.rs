//! The process of a service, and the settings that it is given.

use crate::System;
use iotctl::services::{Installation, Service};
use std::process::{Child, Stdio};

/// The variable of the listener that every service has.
pub(crate) const ADMIN: &str = "ADMIN_LISTEN";

/// Starts the program beside this test's own, with its output in the system's folder.
pub(crate) fn spawn(system: &System, service: &Service) -> Child {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(|deps| deps.parent()).unwrap().join(service.name);
    assert!(program.is_file(), "{} is not built: run `make test`", program.display());
    let log = std::fs::File::options().create(true).append(true).open(system.log_file(service)).unwrap();
    let installation = Installation {
        folder: system.folder.path(),
        tls_cert: &system.pki.path("server.pem"),
        tls_key: &system.pki.path("server.key"),
        device_ca: &system.pki.path("device-ca.pem"),
        jwks: &system.folder.path().join("jwks.json"),
    };
    let listeners = service.listeners.iter().map(|listener| listener.variable).chain([ADMIN]);
    testkit::process::command(program)
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

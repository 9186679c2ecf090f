//! The services and the settings of each.

use crate::System;
use std::process::{Child, Command, Stdio};

/// Names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// `gateway`
    Gateway,
    /// `command-svc`
    Command,
    /// `device-svc`
    Devices,
    /// `threshold-svc`
    Thresholds,
    /// `cdc-svc`
    Cdc,
    /// `alerting-svc`
    Alerting,
    /// `query-svc`
    Query,
}

impl Service {
    /// Every service, in data-flow order.
    pub const ALL: [Self; 7] = [
        Self::Gateway,
        Self::Command,
        Self::Devices,
        Self::Thresholds,
        Self::Cdc,
        Self::Alerting,
        Self::Query,
    ];

    /// Returns the name of its program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Command => "command-svc",
            Self::Devices => "device-svc",
            Self::Thresholds => "threshold-svc",
            Self::Cdc => "cdc-svc",
            Self::Alerting => "alerting-svc",
            Self::Query => "query-svc",
        }
    }

    pub(crate) const fn has_rest(self) -> bool {
        matches!(self, Self::Devices | Self::Thresholds | Self::Query)
    }

    pub(crate) const fn rest_name(self) -> &'static str {
        match self {
            Self::Devices => "device-svc REST",
            Self::Thresholds => "threshold-svc REST",
            _ => "query-svc REST",
        }
    }
}

/// Starts the program beside this test's own, with its output in the system's folder.
pub(crate) fn spawn(system: &System, service: Service) -> Child {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(|deps| deps.parent()).unwrap().join(service.name());
    assert!(program.is_file(), "{} is not built: run `make test`", program.display());
    let log = std::fs::File::options().create(true).append(true).open(system.log_file(service)).unwrap();
    let listen = |name: &str| format!("127.0.0.1:{}", system.ports[name]);
    let mut command = Command::new(program);
    command
        .env("ADMIN_LISTEN", listen(service.name()))
        .env("KAFKA_BOOTSTRAP_SERVERS", &system.kafka.bootstrap)
        .env("KAFKA_TOPIC_PREFIX", &system.kafka.prefix)
        .env("DATABASE_URL", system.database.url())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    match service {
        Service::Gateway => {
            command
                .env("MQTT_LISTEN", format!("127.0.0.1:{}", system.mqtt_port))
                .env("HTTP_LISTEN", format!("127.0.0.1:{}", system.http_port))
                .env("TLS_CERT_FILE", system.pki.path("server.pem"))
                .env("TLS_KEY_FILE", system.pki.path("server.key"))
                .env("TLS_CLIENT_CA_FILE", system.pki.path("device-ca.pem"))
                .env("SPOOL_DIR", system.folder.path().join("spool"))
                .env("READING_AGE_DAYS_MAX", "10000");
        }
        Service::Cdc => {
            command.env("CDC_SLOT", format!("e2e_{}", system.kafka.prefix.replace('-', "_")));
        }
        Service::Alerting => {
            command.env("INSTANCE_ID", "0");
        }
        Service::Devices | Service::Thresholds | Service::Query => {
            command
                .env("HTTP_LISTEN", listen(service.rest_name()))
                .env("JWT_JWKS_FILE", system.folder.path().join("jwks.json"))
                .env("JWT_ISSUER", iotctl::token::ISSUER)
                .env("JWT_AUDIENCE", iotctl::token::AUDIENCE);
        }
        Service::Command => {}
    }
    command.spawn().unwrap()
}

//! Every service of the platform, in data-flow order. No other place lists them all.
//!
//! The local platform (programs, ports, database roles, settings), the whole-system tests and the tests of
//! form are made from this table or held against it. A new service is a folder, an entry here and a member of
//! the workspace.

use crate::token::{AUDIENCE, ISSUER};
use schema::topics::{self, Topic};
use std::path::Path;

/// Age at which a local lake writes a file, in milliseconds: somebody is looking.
const LAKE_FILE_AGE_MS: &str = "10000";
/// Age up to which a local gateway takes readings, in days: old series are replayed here with their own
/// timestamps.
const READING_AGE_DAYS: &str = "10000";

/// A setting of a service: the variable and its value.
pub type Setting = (&'static str, String);

/// A service: what goes in and out of it, and what an installation gives it.
#[derive(Debug)]
pub struct Service {
    /// Its name: that of its crate and program, and with `_` for `-` of its database role.
    pub name: &'static str,
    /// Topics that it consumes.
    pub consumes: &'static [Topic],
    /// Topics that it alone produces to.
    pub produces: &'static [Topic],
    /// Tables that it reads and does not write.
    pub reads: &'static [&'static str],
    /// Tables that it alone writes.
    pub writes: &'static [&'static str],
    /// Whether the platform works without it; a local one runs it when it is asked for.
    pub is_optional: bool,
    /// Port of `/livez`, `/readyz` and `/metrics` in a local installation.
    pub admin_port: u16,
    /// What it listens on beside that.
    pub listeners: &'static [Listener],
    /// Folders of a local installation that it writes to. They are there when it starts.
    pub folders: &'static [&'static str],
    /// Names its own settings, those of Kafka, the database and the admin port aside.
    pub settings: fn(&Installation<'_>) -> Vec<Setting>,
}

/// A listener of a service.
#[derive(Debug)]
pub struct Listener {
    /// The variable that names its address.
    pub variable: &'static str,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its port in a local installation.
    pub port: u16,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over mutual TLS.
    Mqtt,
    /// HTTP over TLS, for devices.
    Https,
    /// HTTP in plain text on this host, for callers with a token.
    Rest,
}

impl Protocol {
    /// Names it for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "MQTT",
            Self::Https => "HTTPS",
            Self::Rest => "REST",
        }
    }
}

/// What the services of one installation share: where they write, certificates, keys.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    /// Folder below which services write.
    pub folder: &'a Path,
    /// Certificate of the servers, PEM, with what leads from it to a root.
    pub tls_cert: &'a Path,
    /// Its key, PEM.
    pub tls_key: &'a Path,
    /// Authority of devices, PEM.
    pub device_ca: &'a Path,
    /// Keys that tokens are verified with.
    pub jwks: &'a Path,
}

impl Installation<'_> {
    fn folder(&self, name: &str) -> String {
        display(&self.folder.join(name))
    }

    fn tokens(&self) -> Vec<Setting> {
        vec![
            ("JWT_JWKS_FILE", display(self.jwks)),
            ("JWT_ISSUER", ISSUER.to_owned()),
            ("JWT_AUDIENCE", AUDIENCE.to_owned()),
        ]
    }

    fn gateway(&self) -> Vec<Setting> {
        let mut settings = self.tokens();
        settings.extend([
            ("TLS_CERT_FILE", display(self.tls_cert)),
            ("TLS_KEY_FILE", display(self.tls_key)),
            ("TLS_CLIENT_CA_FILE", display(self.device_ca)),
            ("SPOOL_DIR", self.folder("spool")),
            ("READING_AGE_DAYS_MAX", READING_AGE_DAYS.to_owned()),
        ]);
        settings
    }

    fn lake(&self) -> Vec<Setting> {
        vec![
            ("LAKE_URL", format!("file://{}", self.folder("lake"))),
            ("FILE_AGE_MS_MAX", LAKE_FILE_AGE_MS.to_owned()),
        ]
    }
}

impl Service {
    /// Devices → readings.
    pub const GATEWAY: &'static Self = &Self {
        consumes: &[topics::DEVICE_UPDATES],
        produces: &[topics::READINGS, topics::PRODUCER_DLQ],
        listeners: &[
            Listener { variable: "MQTT_LISTEN", protocol: Protocol::Mqtt, port: 8883 },
            Listener { variable: "HTTP_LISTEN", protocol: Protocol::Https, port: 8443 },
        ],
        folders: &["spool"],
        settings: |installation| installation.gateway(),
        ..Self::new("gateway", 9101)
    };
    /// Readings and alerts → rows.
    pub const COMMAND: &'static Self = &Self {
        consumes: &[topics::READINGS, topics::ALERTS],
        produces: &[topics::READING_DLQ],
        writes: &[
            "readings_ingestion",
            "sensor_latest",
            "sensor_reading_hourly_aggregates",
            "alert_episodes",
        ],
        ..Self::new("command-svc", 9102)
    };
    /// Readings → files.
    pub const LAKE: &'static Self = &Self {
        consumes: &[topics::READINGS],
        is_optional: true,
        folders: &["lake"],
        settings: |installation| installation.lake(),
        ..Self::new("lake-svc", 9108)
    };
    /// Operators → devices.
    pub const DEVICE: &'static Self = &Self {
        writes: &["devices"],
        listeners: &[rest(8081)],
        settings: |installation| installation.tokens(),
        ..Self::new("device-svc", 9103)
    };
    /// Operators → thresholds.
    pub const THRESHOLD: &'static Self = &Self {
        reads: &["devices", "readings_ingestion"],
        writes: &["sensor_thresholds", "sensor_threshold_versions", "silences", "alert_acknowledgements"],
        listeners: &[rest(8082)],
        settings: |installation| installation.tokens(),
        ..Self::new("threshold-svc", 9104)
    };
    /// Rows of devices, thresholds and silences → their topics.
    pub const CDC: &'static Self = &Self {
        produces: &[topics::THRESHOLD_UPDATES, topics::DEVICE_UPDATES, topics::SILENCE_UPDATES],
        reads: &["devices", "sensor_thresholds", "silences"],
        ..Self::new("cdc-svc", 9105)
    };
    /// Readings and thresholds → alerts.
    pub const ALERTING: &'static Self = &Self {
        consumes: &[
            topics::READINGS,
            topics::THRESHOLD_UPDATES,
            topics::DEVICE_UPDATES,
            topics::SILENCE_UPDATES,
            topics::ALERT_STATE,
        ],
        produces: &[topics::ALERTS, topics::ALERT_STATE],
        settings: |_| vec![("INSTANCE_ID", "local".to_owned())],
        ..Self::new("alerting-svc", 9106)
    };
    /// Alerts → webhooks.
    pub const NOTIFY: &'static Self = &Self {
        consumes: &[topics::ALERTS],
        produces: &[topics::NOTIFY_DLQ],
        is_optional: true,
        folders: &["notify"],
        settings: |installation| vec![("TARGETS_FILE", installation.folder("notify/targets.json"))],
        ..Self::new("notify-svc", 9109)
    };
    /// The read model → analysts.
    pub const QUERY: &'static Self = &Self {
        reads: &[
            "readings_ingestion",
            "sensor_latest",
            "sensor_reading_hourly_aggregates",
            "alert_episodes",
            "alert_acknowledgements",
            "silences",
        ],
        listeners: &[rest(8080)],
        settings: |installation| installation.tokens(),
        ..Self::new("query-svc", 9107)
    };

    /// Every service, in data-flow order.
    pub const ALL: [&'static Self; 9] = [
        Self::GATEWAY,
        Self::COMMAND,
        Self::LAKE,
        Self::DEVICE,
        Self::THRESHOLD,
        Self::CDC,
        Self::ALERTING,
        Self::NOTIFY,
        Self::QUERY,
    ];

    const fn new(name: &'static str, admin_port: u16) -> Self {
        Self {
            name,
            consumes: &[],
            produces: &[],
            reads: &[],
            writes: &[],
            is_optional: false,
            admin_port,
            listeners: &[],
            folders: &[],
            settings: |_| Vec::new(),
        }
    }

    /// Lists the services that a platform cannot do without, in data-flow order.
    pub fn required() -> impl DoubleEndedIterator<Item = &'static Self> + Clone {
        Self::ALL.into_iter().filter(|service| !service.is_optional)
    }

    /// Lists the others.
    pub fn optional() -> impl Iterator<Item = &'static Self> {
        Self::ALL.into_iter().filter(|service| service.is_optional)
    }

    /// Says whether it is given a broker.
    #[must_use]
    pub const fn has_kafka(&self) -> bool {
        !self.consumes.is_empty() || !self.produces.is_empty()
    }

    /// Says whether it is given a database, with a role of its own.
    #[must_use]
    pub const fn has_database(&self) -> bool {
        !self.reads.is_empty() || !self.writes.is_empty()
    }

    /// Names its database role.
    #[must_use]
    pub fn role(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Finds the listener of that protocol.
    #[must_use]
    pub fn listener(&self, protocol: Protocol) -> Option<&'static Listener> {
        self.listeners.iter().find(|listener| listener.protocol == protocol)
    }
}

const fn rest(port: u16) -> Listener {
    Listener { variable: "HTTP_LISTEN", protocol: Protocol::Rest, port }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_topic_has_one_producer_and_whatever_is_consumed_is_produced() {
        for topic in topics::ALL {
            let producers: Vec<_> =
                Service::ALL.iter().filter(|service| service.produces.contains(&topic)).collect();
            assert_eq!(producers.len(), 1, "{}: {producers:?}", topic.name);
        }
        let known = |topic: &Topic| topics::ALL.contains(topic);
        assert!(Service::ALL.iter().all(|service| service.consumes.iter().all(known)));
    }

    #[test]
    fn every_table_has_one_writer_and_whatever_is_read_is_written() {
        let written: Vec<_> = Service::ALL.iter().flat_map(|service| service.writes).collect();
        let tables: BTreeSet<_> = written.iter().collect();
        assert_eq!(tables.len(), written.len(), "{written:?}");
        for service in Service::ALL {
            assert!(service.reads.iter().all(|table| written.contains(&table)), "{}", service.name);
        }
    }

    #[test]
    fn names_and_ports_are_each_taken_once() {
        let names: BTreeSet<_> = Service::ALL.iter().map(|service| service.name).collect();
        assert_eq!(names.len(), Service::ALL.len());
        let ports: Vec<_> = Service::ALL
            .iter()
            .flat_map(|service| {
                service.listeners.iter().map(|listener| listener.port).chain([service.admin_port])
            })
            .collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len(), "{ports:?}");
    }
}

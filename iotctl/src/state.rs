//! The state folder and the ports of one local installation.

use crate::services::{Protocol, Service};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Name of the folder that holds everything a local installation writes.
const FOLDER: &str = ".fieldline";

/// The state folder.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// Uses `folder`, or when that is not given the nearest `.fieldline` at or above the working folder, or
    /// makes one in it.
    ///
    /// # Errors
    /// The folder cannot be made or named.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        match (folder, Self::nearest()?) {
            (Some(folder), _) => Self::make(folder),
            (None, Some(folder)) => Self::make(&folder),
            (None, None) => Self::make(Path::new(FOLDER)),
        }
    }

    /// Does so for a command that needs what is in the folder: makes one only if it is named.
    ///
    /// # Errors
    /// None is named and there is none at or above the working folder.
    pub fn open_installed(folder: Option<&Path>) -> Result<Self> {
        match Self::find(folder)? {
            Some(state) => Ok(state),
            None => match folder {
                Some(folder) => Self::make(folder),
                None => bail!(
                    "there is no {FOLDER} here or above: go where `make up` was run, or name a folder with --state"
                ),
            },
        }
    }

    /// Finds the folder that [`State::open`] would use, and makes none.
    ///
    /// # Errors
    /// The working folder is gone.
    pub fn find(folder: Option<&Path>) -> Result<Option<Self>> {
        let folder = match folder {
            Some(folder) => Some(folder.to_owned()).filter(|folder| folder.is_dir()),
            None => Self::nearest()?,
        };
        folder.map(|folder| Self::make(&folder)).transpose()
    }

    fn nearest() -> Result<Option<PathBuf>> {
        let here = std::env::current_dir().context("find the working folder")?;
        Ok(here.ancestors().map(|folder| folder.join(FOLDER)).find(|folder| folder.is_dir()))
    }

    fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        // Absolute, because servers and services run with working folders of their own.
        let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Names something in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Names the folder of certificates.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.path("pki")
    }

    /// Names the folder of the token signing key.
    #[must_use]
    pub fn jwt(&self) -> PathBuf {
        self.path("jwt")
    }

    /// Names the folder of Kafka's jars, shared by `up` and the test servers.
    #[must_use]
    pub fn kafka_jars(&self) -> PathBuf {
        self.path("kafka-jars")
    }
}

/// A lock that its holder's end releases, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock `path`, or returns nothing when another process holds it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", path.display()))
            }
        }
    }
}

/// The ports of one local installation, all on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    offset: u16,
}

/// Port of PostgreSQL; this and those of Kafka stand beside the usual ones (5432, 9092), which the machine
/// may use itself.
pub const POSTGRES_PORT: u16 = 15432;
/// Port of Kafka.
pub const KAFKA_PORT: u16 = 19092;
/// Port of Kafka's controller.
pub const KAFKA_CONTROLLER_PORT: u16 = 19093;

/// Largest offset that keeps every port below 65,536.
pub const PORT_OFFSET_MAX: u16 = 46_000;

impl Ports {
    /// Shifts every port by `offset`.
    ///
    /// # Errors
    /// `offset` is above [`PORT_OFFSET_MAX`].
    pub fn new(offset: u16) -> Result<Self> {
        if offset > PORT_OFFSET_MAX {
            bail!("a port offset is at most {PORT_OFFSET_MAX}, not {offset}");
        }
        Ok(Self { offset })
    }

    /// Returns the offset.
    #[must_use]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Shifts a port.
    #[must_use]
    pub fn at(&self, port: u16) -> u16 {
        port + self.offset
    }

    /// Returns the port on which a service speaks that protocol.
    ///
    /// # Panics
    /// It does not speak it.
    #[must_use]
    pub fn of(&self, service: &Service, protocol: Protocol) -> u16 {
        let listener = service.listener(protocol).expect("callers name a listener of the table");
        self.at(listener.port)
    }

    /// Returns the base of a service's REST resources.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn rest(&self, service: &Service) -> String {
        format!("http://127.0.0.1:{}", self.of(service, Protocol::Rest))
    }

    /// Checks that nobody listens on any of the ports.
    ///
    /// # Errors
    /// Some are taken; every one is named.
    pub fn ensure_free(&self) -> Result<()> {
        let taken: Vec<String> = self
            .named()
            .filter(|(_, port)| !is_free(*port))
            .map(|(name, port)| format!("{port} (for {name})"))
            .collect();
        if !taken.is_empty() {
            bail!(
                "ports in use by other programs: {}; FIELDLINE_PORT_OFFSET shifts them all",
                taken.join(", ")
            );
        }
        Ok(())
    }

    /// Lists every listener by a name for a person.
    fn named(&self) -> impl Iterator<Item = (String, u16)> {
        let servers = [
            ("PostgreSQL", POSTGRES_PORT),
            ("Kafka", KAFKA_PORT),
            ("Kafka controller", KAFKA_CONTROLLER_PORT),
        ];
        let servers = servers.into_iter().map(|(name, port)| (name.to_owned(), port));
        let services = Service::ALL.into_iter().flat_map(|service| {
            let named = |what: &str| format!("{} {what}", service.name);
            let listeners = service.listeners.iter().map(move |one| (named(one.protocol.as_str()), one.port));
            listeners.chain([(named("admin"), service.admin_port)]).collect::<Vec<_>>()
        });
        servers.chain(services).map(|(name, port)| (name, self.at(port)))
    }
}

/// Returns a port that nobody listens on now.
///
/// # Errors
/// The system has none left.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_is_reported_by_the_name_of_its_part() {
        let bind =
            |offset| TcpListener::bind((Ipv4Addr::LOCALHOST, 8883 + offset)).ok().map(|held| (offset, held));
        let (offset, held) = (20_000..PORT_OFFSET_MAX).find_map(bind).unwrap();
        let taken = held.local_addr().unwrap().port();
        let ports = Ports::new(offset).unwrap();
        let message = ports.ensure_free().unwrap_err().to_string();
        assert!(message.contains(&format!("{taken} (for gateway MQTT)")), "{message}");
        drop(held);
    }

    #[test]
    fn lock_is_held_once_and_free_again_after_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::take(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::take(&path).unwrap().is_some());
    }
}

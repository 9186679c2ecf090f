//! The needs of tests: real servers named by the environment, one device's view of the gateway, and waits
//! with a deadline.
//!
//! `TEST_DATABASE_URL` and `TEST_KAFKA_BOOTSTRAP` name the servers; `make test` starts them and sets both.
//! Every test makes its own database and its own topic prefix, so tests run side by side.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

pub mod broker;
pub mod connect;
pub mod device;
pub mod docs;
pub mod kafka;
pub mod pki;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod rest;
pub mod server;
pub mod wait;
pub mod webhook;

/// Returns a variable of the test run.
///
/// # Panics
/// It is not set: then the tests run without `make test`.
pub fn setting(name: &str) -> String {
    std::env::vars()
        .find_map(|(key, value)| (key == name).then_some(value))
        .unwrap_or_else(|| panic!("{name} is not set: run `make test`, or set it to a server of yours"))
}

/// Returns a name that no other test uses.
pub fn unique(stem: &str) -> String {
    format!("{stem}-{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// Returns a port of 127.0.0.1 that was free a moment ago.
///
/// # Panics
/// The machine has none.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

//! The service between a real PostgreSQL and a real Kafka.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod capture;
mod docs;
mod failures;
mod killed;
mod slot;
mod support;
mod takeover;
mod tls;

//! The service on a real Kafka.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod alerts;
mod docs;
mod episodes;
mod failures;
mod rebalance;
mod support;

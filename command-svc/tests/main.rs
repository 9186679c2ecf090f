//! The command service on real Kafka and PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod batches;
mod contract;
mod dead_letters;
mod docs;
mod episodes;
mod faults;
mod names;
mod once;
mod poison;
mod progress;
mod retention;
mod store;
mod support;
mod timescale;
mod ways;

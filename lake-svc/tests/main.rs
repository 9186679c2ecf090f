//! The lake service on a real Kafka, as processes that can be killed; read back by DuckDB.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod docs;
mod once;
mod python;
mod s3;
mod stranger;
mod support;
mod trouble;

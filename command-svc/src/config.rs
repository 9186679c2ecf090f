//! Settings of the command service.

use crate::batch::Limits;
use chassis::config::Env;
use chassis::{kafka, postgres};
use std::time::Duration;

/// Holds every setting; each field names its variable.
#[derive(Clone, Debug)]
pub struct Config {
    /// `KAFKA_*`.
    pub kafka: kafka::Settings,
    /// `DATABASE_*`.
    pub postgres: postgres::Settings,
    /// `BATCH_ROWS_READY` (default 500) rows, or `BATCH_AGE_MS_MAX` (default 20 ms), make a batch ready; while it waits
    /// for the one before, it grows to `BATCH_ROWS_MAX` (default 50,000) or `BATCH_BYTES_MAX` (default 32 MiB).
    /// A lane holds two batches, so memory is bounded by writers × 2 × `BATCH_BYTES_MAX`, times about four for decoding.
    pub limits: Limits,
    /// `WRITERS`, default 2: lanes that write at the same time, each with a connection and partitions of its own.
    pub writers: usize,
    /// `DATA_RETRY_MS_FIRST`, default 2 s: the wait before a refused record is tried again; it doubles.
    pub data_retry_first: Duration,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            kafka: kafka::Settings::from_env(env),
            postgres: postgres::Settings::from_env(env),
            limits: Limits {
                rows_ready: env.count_in("BATCH_ROWS_READY", 500, 1..=100_000),
                age_max: env.duration_ms("BATCH_AGE_MS_MAX", 20, 1..=60_000),
                rows_max: env.count_in("BATCH_ROWS_MAX", 50_000, 1..=1_000_000),
                bytes_max: env.count_in("BATCH_BYTES_MAX", 32 << 20, 1_024..=256 << 20),
            },
            // The pool's default has room for all of them; a smaller pool only makes lanes take turns.
            writers: env.count_in("WRITERS", 2, 1..=64),
            data_retry_first: env.duration_ms("DATA_RETRY_MS_FIRST", 2_000, 1..=60_000),
        }
    }
}

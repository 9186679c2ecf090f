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
    /// `BATCH_ROWS_MAX` (default 500), `BATCH_BYTES_MAX` (default 4 MiB) and `BATCH_AGE_MS_MAX` (default 50 ms):
    /// a batch is written when the first of them is reached.
    pub limits: Limits,
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
                rows_max: env.count_in("BATCH_ROWS_MAX", 500, 1..=100_000),
                bytes_max: env.count_in("BATCH_BYTES_MAX", 4 << 20, 1_024..=256 << 20),
                age_max: env.duration_ms("BATCH_AGE_MS_MAX", 50, 1..=60_000),
            },
            data_retry_first: env.duration_ms("DATA_RETRY_MS_FIRST", 2_000, 1..=60_000),
        }
    }
}

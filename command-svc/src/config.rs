//! Settings of the command service.

use crate::batch::Limits;
use crate::retention::{DAYS_MAX, DAYS_MIN, EPISODE_DAYS_MIN, Retention};
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
    /// `BATCH_ROWS_READY` (default 500) rows, or `BATCH_AGE_MS_MAX` (default 20 ms), make a batch ready;
    /// while it waits for the one before, it grows to `BATCH_ROWS_MAX` (default 150,000) or `BATCH_BYTES_MAX`
    /// (default 32 MiB). The bytes are those of Kafka's values, and of attributes once for each row that has
    /// them. The last parcel may pass the bound, by 64 MiB at most (256 KiB of readings, each with 256 rows).
    /// A lane holds two batches, each about three times its bytes when it is decoded, and 64 MiB of records
    /// before them: memory is bounded by writers × (6 × (`BATCH_BYTES_MAX` + 64 MiB) + 64 MiB), and usual
    /// readings stay below writers × (6 × `BATCH_BYTES_MAX` + 64 MiB).
    pub limits: Limits,
    /// `WRITERS`, default 2: lanes that write at the same time, each with a connection and partitions of its
    /// own.
    pub writers: usize,
    /// `INSTANCE_ID`, optional: a name of this instance in the group, which no other has. With it a restart
    /// within 10 s moves no partition; without it partitions move at once.
    pub instance_id: Option<String>,
    /// `STALL_MS_MAX`, default 120,000: a partition with lag that stands still for longer, with nothing in
    /// its way, makes the process unready, and not live after twice the time.
    pub stall_max: Duration,
    /// `DATA_RETRY_MS_FIRST`, default 2 s: the wait before a refused record is tried again; it doubles. Only
    /// the offset of its partition waits for it.
    pub data_retry_first: Duration,
    /// `RETENTION_DAYS`, default 0 (raw readings are kept for ever), else from 8: older raw readings are
    /// dropped, and readings of such an age are dead letters. The hourly read model and the latest values
    /// stay.
    pub retention: Retention,
    /// `EPISODE_DAYS`, default 400, from 31: how long an episode is kept after it was closed.
    pub episode_days: u32,
    /// `PARTITIONS_AHEAD_DAYS`, default 3: day partitions that are made before their day (dialect
    /// `postgres`).
    pub partitions_ahead_days: u16,
    /// `MAINTENANCE_MS`, default an hour, at most six: how often partitions are made and dropped.
    pub maintenance_every: Duration,
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
                rows_max: env.count_in("BATCH_ROWS_MAX", 150_000, 1..=1_000_000),
                bytes_max: env.count_in("BATCH_BYTES_MAX", 32 << 20, 1_024..=256 << 20),
            },
            // The pool's default has room for all of them; a smaller pool only makes lanes take turns.
            writers: env.count_in("WRITERS", 2, 1..=64),
            instance_id: env.text_optional("INSTANCE_ID"),
            stall_max: kafka::stall_max(env),
            data_retry_first: env.duration_ms("DATA_RETRY_MS_FIRST", 2_000, 1..=60_000),
            retention: retention(env),
            episode_days: u32::try_from(env.number_in(
                "EPISODE_DAYS",
                400,
                EPISODE_DAYS_MIN.into()..=DAYS_MAX.into(),
            ))
            .unwrap_or(DAYS_MAX),
            partitions_ahead_days: u16::try_from(env.number_in("PARTITIONS_AHEAD_DAYS", 3, 1..=30))
                .unwrap_or(3),
            // Six hours leave four turns a day, so one that fails makes no partition late.
            maintenance_every: env.duration_ms("MAINTENANCE_MS", 3_600_000, 1_000..=21_600_000),
        }
    }
}

fn retention(env: &mut Env) -> Retention {
    match u32::try_from(env.number_in("RETENTION_DAYS", 0, 0..=DAYS_MAX.into())).unwrap_or(0) {
        0 => Retention::FOR_EVER,
        days => {
            if days < DAYS_MIN {
                env.problem(format!("RETENTION_DAYS must be 0 (for ever) or at least {DAYS_MIN}"));
            }
            Retention::days(days)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(days: &str) -> String {
        let mut env = Env::of([("RETENTION_DAYS".to_owned(), days.to_owned())]);
        retention(&mut env);
        env.finish().err().map(|problems| problems.to_string()).unwrap_or_default()
    }

    #[test]
    fn retention_is_off_or_longer_than_what_is_redelivered() {
        assert_eq!(problems("0"), "");
        assert_eq!(problems("8"), "");
        assert!(problems("7").contains("at least 8"));
        assert!(problems("-1").contains("RETENTION_DAYS"));
    }
}

//! Settings of the command service.

use crate::batch::Limits;
use crate::retention::{DAYS_MAX, DAYS_MIN, EPISODE_DAYS_MIN, Retention};
use chassis::config::Env;
use chassis::{kafka, postgres};
use std::time::Duration;

chassis::settings! {
    /// Holds every setting.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// `DATABASE_…`.
        pub postgres: postgres::Settings = postgres::Settings::from_env(env),
        /// `BATCH_…`: when a batch is ready and how large it may be.
        pub limits: Limits = limits(env),
        /// Lanes that write at the same time, each with a connection and partitions of its own. The pool's
        /// default has room for all of them; a smaller pool only makes lanes take turns.
        pub writers: usize = env.number_in("WRITERS", 2, 1..=64),
        /// A name of this instance in the group, which no other has. With it a restart within 10 s moves no
        /// partition; without it partitions move at once.
        pub instance_id: Option<String> = env.text_optional("INSTANCE_ID"),
        /// `STALL_MS_MAX`; see [`kafka::stall_max`].
        pub stall_max: Duration = kafka::stall_max(env),
        /// The wait before a refused record is tried again; it doubles. Only the offset of its partition
        /// waits for it.
        pub data_retry_first: Duration = env.duration_ms("DATA_RETRY_MS_FIRST", 2_000, 1..=60_000),
        /// How long raw readings are kept: 0 for ever, else at least 8 days. Older ones are dropped, and
        /// readings of such an age are dead letters. The hourly read model and the latest values stay.
        pub retention: Retention = retention(env),
        /// How long an episode is kept after it was closed.
        pub episode_days: u32 = env.number_in("EPISODE_DAYS", 400, EPISODE_DAYS_MIN..=DAYS_MAX),
        /// Day partitions that are made before their day (dialect `postgres`).
        pub partitions_ahead_days: u16 = env.number_in("PARTITIONS_AHEAD_DAYS", 3, 1..=30),
        /// How often partitions are made and dropped. Six hours leave four turns a day, so one that fails
        /// makes no partition late.
        pub maintenance_every: Duration = env.duration_ms("MAINTENANCE_MS", 3_600_000, 1_000..=21_600_000),
    }
}

fn limits(env: &mut Env) -> Limits {
    let rows_ready =
        env.about("Rows that make a batch ready.").number_in("BATCH_ROWS_READY", 500, 1..=100_000);
    env.about("Age of its first row that makes a batch ready.");
    let age_max = env.duration_ms("BATCH_AGE_MS_MAX", 20, 1..=60_000);
    env.about("Rows to which a batch grows while it waits for the one before.");
    let rows_max = env.number_in("BATCH_ROWS_MAX", 150_000, 1..=1_000_000);
    env.about(
        "Bytes to which a batch grows meanwhile: those of Kafka's values, and of attributes once for each \
         row that has them. The last parcel may pass the bound, by 64 MiB at most (256 KiB of readings, each \
         with 256 rows). A lane holds two batches, each about three times its bytes when it is decoded, and \
         64 MiB of records before them: memory is bounded by writers × (6 × (`BATCH_BYTES_MAX` + 64 MiB) + \
         64 MiB), and usual readings stay below writers × (6 × `BATCH_BYTES_MAX` + 64 MiB).",
    );
    let bytes_max = env.number_in("BATCH_BYTES_MAX", 32 << 20, 1_024..=256 << 20);
    Limits { rows_ready, age_max, rows_max, bytes_max }
}

fn retention(env: &mut Env) -> Retention {
    match env.number_in("RETENTION_DAYS", 0, 0..=DAYS_MAX) {
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

//! Settings of the service.

use chassis::config::Env;
use chassis::{kafka, postgres};
use std::time::Duration;

/// Longest slot name. PostgreSQL allows 63 bytes, and the snapshot's slot appends to it.
const SLOT_BYTES_MAX: usize = 50;

/// Shortest standstill that may count as a stall. While our tables rest, the server sends word only every 10
/// s.
const STALL_MIN: Duration = Duration::from_secs(30);

chassis::settings! {
    /// Holds every setting.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// `DATABASE_…`. The user needs `REPLICATION` and `SELECT` on the captured tables.
        pub postgres: postgres::Settings = postgres::Settings::from_env(env),
        /// The replication slot, 1 to 50 of a-z, 0-9 and _. Slots belong to the whole server: two platforms
        /// on one server need two names.
        pub slot: String = slot(env),
        /// `STALL_MS_MAX`, at least 30,000 here: a slot that has WAL to confirm and does not move for longer,
        /// while both servers answer, makes the process unready, and after twice the time the one that holds
        /// the slot is not live.
        pub stall_max: Duration = stall_max(env),
    }
}

fn slot(env: &mut Env) -> String {
    let slot = env.text_or("CDC_SLOT", "fieldline_cdc");
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if slot.len() > SLOT_BYTES_MAX || !slot.bytes().all(named) {
        env.problem("CDC_SLOT must be 1 to 50 of a-z, 0-9 and _");
    }
    slot
}

fn stall_max(env: &mut Env) -> Duration {
    let stall_max = kafka::stall_max(env);
    if stall_max < STALL_MIN {
        env.problem("STALL_MS_MAX must be at least 30000 for cdc-svc");
    }
    stall_max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_name_that_postgresql_would_refuse_is_refused_at_start() {
        for (slot, accepted) in
            [("fieldline_cdc", true), ("", true), ("Slot", false), ("a'b", false), (&"x".repeat(51), false)]
        {
            let mut env = Env::of(
                [
                    ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
                    ("DATABASE_URL", "postgres://cdc@127.0.0.1/fieldline"),
                    ("CDC_SLOT", slot),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
            );
            Config::from_env(&mut env);
            assert_eq!(env.finish().is_ok(), accepted, "{slot}");
        }
    }
}

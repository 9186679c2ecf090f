//! Settings of the service.

use chassis::config::Env;
use chassis::kafka;
use std::time::Duration;

/// Holds every setting.
#[derive(Clone, Debug)]
pub struct Config {
    /// Kafka; see [`kafka::Settings::from_env`].
    pub kafka: kafka::Settings,
    /// `INSTANCE_ID`: names this instance among its replicas, `[A-Za-z0-9_.-]`, 1 to 100 bytes, required. It
    /// is part of the transactional id and the static member id, so an instance that comes back under its old
    /// name (a StatefulSet) aborts what it left open and has its partitions at once; two instances of one
    /// name stop each other.
    pub instance_id: String,
    /// `ALERTS_REMEMBERED_PER_PARTITION`: how many alerts deduplicate later ones, 100 to 1,000,000, default
    /// 10,000. Each takes about 100 bytes of memory, and two records to read at a rebalance.
    pub alerts_remembered: usize,
    /// `STALL_MS_MAX`, default 120,000: see [`kafka::stall_max`].
    pub stall_max: Duration,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        let instance_id = env.text("INSTANCE_ID");
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if instance_id.len() > 100 || !instance_id.bytes().all(named) {
            env.problem("INSTANCE_ID must be 1 to 100 of A-Z, a-z, 0-9, _, . and -");
        }
        Self {
            kafka: kafka::Settings::from_env(env),
            instance_id,
            alerts_remembered: env.count_in("ALERTS_REMEMBERED_PER_PARTITION", 10_000, 100..=1_000_000),
            stall_max: kafka::stall_max(env),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_without_a_usable_name_is_refused_at_start() {
        for (id, accepted) in
            [("local", true), ("alerting-0", true), ("", false), ("a b", false), ("é", false)]
        {
            let mut env = Env::of(
                [("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"), ("INSTANCE_ID", id)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            );
            Config::from_env(&mut env);
            assert_eq!(env.finish().is_ok(), accepted, "{id}");
        }
    }
}

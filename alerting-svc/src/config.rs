//! Settings of the service.

use chassis::config::Env;
use chassis::kafka;
use std::time::Duration;

chassis::settings! {
    /// Holds every setting.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// Names this instance among its replicas, 1 to 100 of A-Z, a-z, 0-9, _, . and -. It is part of the
        /// transactional id and the static member id, so an instance that comes back under its old name (a
        /// StatefulSet) aborts what it left open and has its partitions at once; two instances of one name
        /// stop each other.
        pub instance_id: String = instance_id(env),
        /// How many alerts deduplicate later ones. Each takes about 100 bytes of memory, and two records to
        /// read at a rebalance.
        pub alerts_remembered: usize =
            env.number_in("ALERTS_REMEMBERED_PER_PARTITION", 10_000, 100..=1_000_000),
        /// `STALL_MS_MAX`; see [`kafka::stall_max`].
        pub stall_max: Duration = kafka::stall_max(env),
    }
}

fn instance_id(env: &mut Env) -> String {
    let instance_id = env.text("INSTANCE_ID");
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if instance_id.len() > 100 || !instance_id.bytes().all(named) {
        env.problem("INSTANCE_ID must be 1 to 100 of A-Z, a-z, 0-9, _, . and -");
    }
    instance_id
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

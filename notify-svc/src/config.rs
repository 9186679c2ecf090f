//! Settings of the notification service.

use crate::target::{Target, targets};
use chassis::kafka;
use std::time::Duration;

chassis::settings! {
    /// Holds every setting.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// A JSON file of up to 16 targets, read at the start; docs/notifications.md shows it.
        pub targets: Vec<Target> = targets(env),
        /// `STALL_MS_MAX`; see [`kafka::stall_max`]. A target that is away is no stall.
        pub stall_max: Duration = kafka::stall_max(env),
    }
}

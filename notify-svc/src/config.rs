//! Settings of the notification service.

use crate::target::{Target, targets};
use chassis::config::Env;
use chassis::kafka;
use std::time::Duration;

/// Holds every setting; each field names its variable.
#[derive(Clone, Debug)]
pub struct Config {
    /// `KAFKA_*`.
    pub kafka: kafka::Settings,
    /// `TARGETS_FILE`: a JSON file of up to 16 targets, read at the start; docs/notifications.md.
    pub targets: Vec<Target>,
    /// `STALL_MS_MAX`, default 120,000: see [`kafka::stall_max`]. A target that is away is no stall.
    pub stall_max: Duration,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            kafka: kafka::Settings::from_env(env),
            targets: targets(env),
            stall_max: kafka::stall_max(env),
        }
    }
}

//! Settings of query-svc.

use chassis::config::Env;
use chassis::rest;
use std::time::Duration;

/// Holds every setting of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings of every REST service; see [`rest::Settings::from_env`].
    pub rest: rest::Settings,
    /// How answers are kept.
    pub cache: Cache,
}

/// Says how long and how many answers about hours are kept.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// `CACHE_MIB_MAX`: memory for answers, in MiB; default 64, 1 to 65,536.
    pub bytes_max: u64,
    /// `CACHE_OPEN_MS_MAX`: longest age of an answer about the present hour; default 2,000, 0 to 60,000.
    pub open_age_max: Duration,
    /// `CACHE_CLOSED_MS_MAX`: longest age of an answer about hours that are over; late readings may still
    /// change them. Default 10,000, 0 to 3,600,000.
    pub closed_age_max: Duration,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            rest: rest::Settings::from_env(env),
            cache: Cache {
                bytes_max: env.number_in("CACHE_MIB_MAX", 64, 1..=65_536) * 1_024 * 1_024,
                open_age_max: env.duration_ms("CACHE_OPEN_MS_MAX", 2_000, 0..=60_000),
                closed_age_max: env.duration_ms("CACHE_CLOSED_MS_MAX", 10_000, 0..=3_600_000),
            },
        }
    }
}

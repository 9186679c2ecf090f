//! Settings of query-svc.

use chassis::rest;
use std::time::Duration;

chassis::settings! {
    /// Holds every setting of the service.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// The settings of every REST service.
        pub rest: rest::Settings = rest::Settings::from_env(env),
        /// How answers are kept.
        pub cache: Cache = Cache::from_env(env),
    }
}

chassis::settings! {
    /// Says how long and how many answers about hours are kept.
    #[derive(Clone, Copy, Debug)]
    pub struct Cache (env) {
        /// Memory for answers about hours.
        pub bytes_max: u64 = env.number_in("CACHE_MIB_MAX", 64, 1..=65_536) << 20,
        /// Longest age of an answer about the present hour.
        pub open_age_max: Duration = env.duration_ms("CACHE_OPEN_MS_MAX", 2_000, 0..=60_000),
        /// Longest age of an answer about hours that are over; late readings may still change them.
        pub closed_age_max: Duration = env.duration_ms("CACHE_CLOSED_MS_MAX", 10_000, 0..=3_600_000),
    }
}

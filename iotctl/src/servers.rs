//! Private PostgreSQL and Kafka servers: real ones, in a given folder and on given ports of 127.0.0.1.
//!
//! They share nothing with servers that the machine runs itself.

use std::time::Duration;

pub mod jars;
pub mod kafka;
pub mod postgres;
pub mod run;

/// Interval between questions to a starting server.
const READY_POLL: Duration = Duration::from_millis(100);
/// Longest time until a server answers: recovery after a `kill -9` on a slow disk is the longest case.
const READY_WITHIN: Duration = Duration::from_secs(120);

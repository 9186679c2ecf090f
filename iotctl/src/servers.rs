//! Private PostgreSQL and Kafka servers: real ones, in a given folder and on given ports of 127.0.0.1.
//!
//! They share nothing with servers that the machine runs itself.

use std::time::Duration;

pub mod kafka;
pub mod postgres;
pub mod run;

/// How often a starting server is asked whether it answers.
const READY_POLL: Duration = Duration::from_millis(100);
/// How long a server may take to answer: recovery after a `kill -9` on a slow disk is the longest case.
const READY_WITHIN: Duration = Duration::from_secs(120);

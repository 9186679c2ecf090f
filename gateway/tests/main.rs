//! The gateway over real sockets, real certificates and real Kafka.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod access;
mod acknowledgement;
mod certificates;
mod docs;
mod flooding;
#[path = "../fuzz/inputs.rs"]
mod fuzz;
mod fuzzed;
mod hardship;
mod hostile;
mod http;
mod interop;
mod limits;
mod process;
mod protocol;
mod raw;
mod refused;
mod sparkplug;
mod spooling;
mod stack;
mod strangers;
mod table;

//! Records, until they are safe: in Kafka, or on the spool's disk. Knows no device and no protocol.

pub mod spool;

pub(crate) mod budget;
pub(crate) mod failover;
pub(crate) mod forwarder;
pub(crate) mod in_flight;
mod private;
pub(crate) mod producer;
pub(crate) mod record;
mod refused;
mod report;

//! Records, until they are safe: in Kafka, or on the spool's disk. Knows no device and no protocol.

pub mod spool;

pub(crate) mod budget;
pub(crate) mod delivery;
pub(crate) mod forward;
pub(crate) mod private;
pub(crate) mod publish;
pub(crate) mod refused;
pub(crate) mod window;

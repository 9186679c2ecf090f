//! MQTT 3.1.1 and 5: packets, and a connection from its CONNECT to its end.

pub mod packet;

pub(crate) mod connection;
pub(crate) mod session;
pub(crate) mod wire;

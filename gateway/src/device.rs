//! Devices: who somebody is, whether they may come in, and what they may cost.

pub mod identity;
pub mod registry;

pub(crate) mod account;
pub(crate) mod connections;
pub(crate) mod updates;

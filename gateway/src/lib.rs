//! stub

pub mod decode;
pub mod identity;
pub mod mqtt;
pub mod registry;

//! stub

pub mod mqtt;

//! Episodes as callers see them, held against models of their own.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod fuzz;
mod model;
mod properties;
mod sentences;
mod stage;

//! Readings and thresholds → alerts. Pure.
//!
//! In:         readings, one at a time; records of `iot-threshold-updates`.
//! Out:        the alerts that a reading causes, and whether the same reading has caused them before.
//! Guarantee:  equal inputs have equal outputs, in every program that runs it. The caller brings the time.
//! On failure: a change that cannot be read leaves the threshold as it was and says so (ADR 0014).
//!
//! A reading is evaluated against the [`table`] of thresholds by [`evaluate`]; [`dedup`] knows the alerts
//! that a partition has had. ADR 0019 says why this is a crate of its own.

pub mod dedup;
pub mod evaluate;
pub mod table;

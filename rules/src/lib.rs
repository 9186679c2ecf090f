//! Readings and thresholds → alerts. Pure.
//!
//! In:         readings, one at a time; records of `iot-threshold-updates`.
//! Out:        the alerts that a reading causes, and whether the same reading has caused them before.
//! Guarantee:  equal inputs have equal outputs, in every program that runs it. The caller brings the time.
//! On failure: a change that cannot be read leaves the threshold as it was and says so (ADR 0014).
//!
//! [`evaluate()`] holds a reading against the table of thresholds, [`Rules`]; [`Dedup`] knows the alerts that
//! a partition has had. ADR 0019 says why this is a crate of its own.

mod dedup;
mod evaluate;
mod table;

pub use dedup::{Dedup, DedupKey, DedupWindow};
pub use evaluate::{Violation, evaluate};
pub use table::Rules;

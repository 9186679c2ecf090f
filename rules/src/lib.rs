//! Readings, time and thresholds → alerts and episodes. Pure.
//!
//! In:         readings, one at a time; records of `iot-threshold-updates` and `iot-device-updates`; the
//!             time.
//! Out:        alerts, and the records of `iot-alert-state` that go with them.
//! Guarantee:  equal inputs have equal outputs, in every program that runs it. The caller brings the time. A
//!             restart between any two transactions, and a reading that comes again, change nothing.
//! On failure: a change that cannot be read leaves the threshold as it was and says so (ADR 0014).
//!
//! [`Rules`] and [`Devices`] are tables; [`Episodes::step`] holds a reading against them. ADR 0022 says
//! which threshold speaks for a sensor, ADR 0024 how time passes and what survives a restart. ADR 0019 says
//! why this is a crate of its own.

mod dedup;
mod devices;
mod episodes;
mod held;
mod limits;
mod listed;
mod outputs;
mod seen;
mod silence;
mod specific;
mod summary;
mod table;
mod time;
mod versions;

pub use dedup::{DedupKey, DedupWindow};
pub use devices::Devices;
pub use episodes::{Episodes, GRACE_MICROS, Input, Tables, UNWRITTEN_OFFSETS_MAX};
pub use outputs::Outputs;
pub use table::{Rules, Touched};
pub use versions::VERSIONS_MAX;

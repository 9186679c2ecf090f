//! Measurements, as ratios taken side by side in one run on one machine.
//!
//! In:         servers that `iotctl servers run` starts (`--durable` for the write side), release binaries
//!             beside this one, Java peers from Maven.
//! Out:        a table on standard output; progress on standard error.
//! Guarantee:  all data follows from a seed; contenders take turns within each round, so the machine's noise
//!             meets all.
//! On failure: one line that says which contender failed and where its log is. A goal that is missed is no
//!             failure.

pub mod cpu;
pub mod gateway;
pub mod memory;
pub mod peers;
pub mod readings;
pub mod rebalance;
pub mod server;
pub mod stats;
pub mod topic;
pub mod write;

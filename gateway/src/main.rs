//! The gateway as a process.

use std::process::ExitCode;

/// Records are made on one thread and given back on another, ours and librdkafka's alike; the system's
/// allocator waits for its own lock there (ADR 0010).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    chassis::main("gateway", gateway::Config::from_env, gateway::run)
}

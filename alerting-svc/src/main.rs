//! The service as a process.

use std::process::ExitCode;

/// Records are made on librdkafka's threads and given back on ours; the system's allocator keeps what it
/// frees for each of its many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    chassis::main("alerting-svc", alerting_svc::Config::from_env, alerting_svc::run)
}

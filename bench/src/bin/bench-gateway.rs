//! Measures the gateway; see `bench::gateway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::gateway::main()
}

//! Measures rolling restarts; see `bench::rebalance`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::rebalance::main()
}

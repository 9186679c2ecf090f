//! Measures the evaluation of readings; see `bench::alerts`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::alerts::main()
}

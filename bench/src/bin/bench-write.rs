//! Measures the write side; see `bench::write`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::write::main()
}

//! Entry point; the service itself is `lake_svc::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::main("lake-svc", lake_svc::Config::from_env, lake_svc::run)
}

//! Entry point; the service itself is `command_svc::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::main("command-svc", command_svc::Config::from_env, command_svc::run)
}

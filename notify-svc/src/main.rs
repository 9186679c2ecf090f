//! Entry point; the service itself is `notify_svc::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::main("notify-svc", notify_svc::Config::from_env, notify_svc::run)
}

//! Runs the service; see the library.

fn main() -> std::process::ExitCode {
    chassis::main("alerting-svc", alerting_svc::Config::from_env, alerting_svc::run)
}

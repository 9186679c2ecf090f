//! `threshold-svc`: see the library.

fn main() -> std::process::ExitCode {
    chassis::main("threshold-svc", threshold_svc::Config::from_env, threshold_svc::run)
}

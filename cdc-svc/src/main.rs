//! Runs the service; see the library.

fn main() -> std::process::ExitCode {
    chassis::main("cdc-svc", cdc_svc::Config::from_env, cdc_svc::run)
}

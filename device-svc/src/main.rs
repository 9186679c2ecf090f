//! `device-svc`: see the library.

fn main() -> std::process::ExitCode {
    chassis::main("device-svc", device_svc::Config::from_env, device_svc::run)
}

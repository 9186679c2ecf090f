//! `query-svc`: see the library.

fn main() -> std::process::ExitCode {
    chassis::main("query-svc", query_svc::Config::from_env, query_svc::run)
}

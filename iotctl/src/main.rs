//! `iotctl`: see the library.

fn main() -> std::process::ExitCode {
    iotctl::cli::main()
}

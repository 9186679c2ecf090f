//! Programs that a test starts and that never outlive it.

use iotctl::process;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::process::Command;

/// Describes a program whose process the kernel kills when the thread that starts it ends, as it does when
/// the test is over, has panicked or was killed itself.
///
/// Start it where the test's main future runs: a thread of a pool may end before its time.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    process::command(program, Signal::SIGKILL).into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::thread;

    #[test]
    fn program_ends_with_the_thread_that_started_it() {
        let started = thread::spawn(|| {
            let child = command("sleep").arg("600").spawn().unwrap();
            // The bond is made before the program begins; a thread that ends sooner leaves it behind.
            let name = format!("/proc/{}/comm", child.id());
            while std::fs::read_to_string(&name).unwrap() != "sleep\n" {
                thread::yield_now();
            }
            child
        });
        let status = started.join().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }
}

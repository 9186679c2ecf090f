//! Child processes that do not outlive the command which started them.
//!
//! Each child leads a process group of its own, so that Ctrl-C on the terminal reaches this process alone,
//! which then stops its children in order. Dropping a [`Process`] ends it. After a `kill -9` of this process
//! the kernel ends what [`command`] started, and the pid files tell the next run what it missed: they carry
//! the process's start time, so that a pid that the system has given to somebody else meanwhile is left
//! alone.

use crate::files::{self, Readers};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Interval between looks at a process that ends and is not our child.
const GONE_POLL: Duration = Duration::from_millis(50);
/// Lines of a dead process's log that are shown.
const TAIL_LINES: usize = 15;

/// How a process is asked to end.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// The signal that asks it to finish what it has begun.
    pub signal: Signal,
    /// How long it may take before it is killed.
    pub grace: Duration,
    /// The signal that ends it at once, when nobody can wait for it.
    pub abort: Signal,
}

impl Stop {
    /// SIGTERM and ten seconds, the contract of our own services and of Kafka.
    pub const TERM: Self =
        Self { signal: Signal::SIGTERM, grace: Duration::from_secs(10), abort: Signal::SIGKILL };
}

/// Describes a program whose process gets `signal` when the thread that starts it ends, also by a `kill -9`.
///
/// Start it where the runtime's main future runs: a thread of a pool may end before its time. SIGKILL is the
/// only signal that also ends a process which was stopped.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, signal: Signal) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg(signal.as_str().trim_start_matches("SIG")).arg("--").arg(program);
    command
}

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    pid_file: PathBuf,
    stop: Stop,
}

impl Process {
    /// Starts `command` with its output in `log` and its pid in `pid_file`; the log of the run before is kept
    /// as `*.log.1`.
    ///
    /// # Errors
    /// The program is not there or cannot be run, or its log or pid file cannot be written.
    pub fn start(name: &str, command: &mut Command, log: &Path, pid_file: &Path, stop: Stop) -> Result<Self> {
        let output = new_log(log)?;
        let errors = output.try_clone().with_context(|| format!("open {}", log.display()))?;
        let program = command.as_std().get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.to_string_lossy()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.with_context(|| format!("{name} ended as it started"))?;
        let process = Self {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
            pid_file: pid_file.to_owned(),
            stop,
        };
        let record = format!("{pid} {}\n", start_time(pid).unwrap_or_default());
        files::write(pid_file, record.as_bytes(), Readers::Everyone)?;
        Ok(process)
    }

    /// Names the process as it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for its end. Cancel-safe.
    ///
    /// # Errors
    /// The system does not say how it ended.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.with_context(|| format!("wait for {}", self.name))
    }

    /// Returns an error that shows the end of its log if it has ended already.
    ///
    /// # Errors
    /// It has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!(self.describe_end(status)),
        }
    }

    /// Says how it ended and what it logged last.
    #[must_use]
    pub fn describe_end(&self, status: ExitStatus) -> String {
        let name = &self.name;
        let log = self.log.display();
        let tail = files::tail(&self.log, TAIL_LINES);
        format!("{name} ended with {status}; its log {log} ends:\n{tail}")
    }

    /// Asks it to end, waits, and kills it and what it started after its grace period.
    ///
    /// # Errors
    /// The system does not say how it ended.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        // An error means that it has ended; `wait` says how.
        let _ = kill(self.pid, self.stop.signal);
        let grace = self.stop.grace;
        let status = match tokio::time::timeout(grace, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                let _ = killpg(self.pid, Signal::SIGKILL);
                self.child.wait().await
            }
        };
        status.with_context(|| format!("wait for {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            let _ = fs::remove_file(&self.pid_file);
            return;
        }
        let _ = kill(self.pid, self.stop.abort);
        if self.stop.abort == Signal::SIGKILL {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        // Nobody waits here for its end: the pid file stays, so that the next run does.
    }
}

/// Ends the process that a killed run left behind, if `pid_file` names one that still runs; says whether it
/// did.
///
/// # Errors
/// It is there and cannot be ended.
pub async fn end_leftover(pid_file: &Path, stop: Stop) -> Result<bool> {
    let Some(pid) = recorded(pid_file) else {
        let _ = fs::remove_file(pid_file);
        return Ok(false);
    };
    let gone_by = |limit: Duration| async move {
        let deadline = Instant::now() + limit;
        while recorded(pid_file).is_some() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(GONE_POLL).await;
        }
        true
    };
    let _ = kill(pid, stop.signal);
    if !gone_by(stop.grace).await {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = killpg(pid, Signal::SIGKILL);
        if !gone_by(stop.grace).await {
            bail!("process {pid} of an earlier run does not end ({})", pid_file.display());
        }
    }
    let _ = fs::remove_file(pid_file);
    Ok(true)
}

/// Returns the pid in `pid_file` if that same process still runs.
#[must_use]
pub fn recorded(pid_file: &Path) -> Option<Pid> {
    let record = fs::read_to_string(pid_file).ok()?;
    let (pid, started) = record.trim().split_once(' ')?;
    let pid = Pid::from_raw(pid.parse().ok().filter(|&pid| pid > 1)?);
    (start_time(pid)? == started).then_some(pid)
}

/// Records this process in `pid_file`, as [`Process::start`] records its children.
///
/// # Errors
/// The file cannot be written.
pub fn record_self(pid_file: &Path) -> Result<()> {
    let pid = Pid::this();
    files::write(
        pid_file,
        format!("{pid} {}\n", start_time(pid).unwrap_or_default()).as_bytes(),
        Readers::Everyone,
    )
}

/// Turns an exit status into a code as a shell does: 128 + the signal for a killed process.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Completes when Ctrl-C, SIGTERM or the terminal's end asks for the end.
///
/// # Errors
/// The signals cannot be watched.
pub async fn told_to_stop() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let hangup = async {
        // Started by nohup it stays when the terminal goes.
        if ignores_hangup() {
            return std::future::pending().await;
        }
        if let Ok(mut hangup) = signal(SignalKind::hangup()) {
            hangup.recv().await;
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = hangup => {}
    }
    Ok(())
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The mask's lowest bit is signal 1, SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Returns when a process started, in clock ticks since boot (proc(5), field 22), unless it has ended.
fn start_time(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything; the third is the state.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn new_log(log: &Path) -> Result<fs::File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    }
    let _ = fs::rename(log, log.with_extension("log.1"));
    fs::File::create(log).with_context(|| format!("create {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start(
            "sleeper",
            &mut command,
            &folder.join("sleeper.log"),
            &folder.join("sleeper.pid"),
            Stop::TERM,
        )
        .unwrap()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn stopped_process_ends_by_the_signal_and_leaves_no_pid_file() {
        let folder = tempfile::tempdir().unwrap();
        let status = runtime().block_on(async { sleeper(folder.path()).stop().await.unwrap() });
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(exit_code(status), 128 + 15);
        assert!(!folder.path().join("sleeper.pid").exists());
    }

    #[test]
    fn process_that_a_killed_run_left_behind_is_ended_by_its_pid_file() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("sleeper.pid");
        runtime().block_on(async {
            let mut left = sleeper(folder.path());
            assert_eq!(recorded(&pid_file), Some(left.pid));
            let (ended, status) = tokio::join!(end_leftover(&pid_file, Stop::TERM), left.wait());
            assert!(ended.unwrap());
            assert_eq!(status.unwrap().signal(), Some(Signal::SIGTERM as i32));
        });
        assert!(!pid_file.exists());
    }

    #[test]
    fn pid_that_belongs_to_somebody_else_now_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("other.pid");
        fs::write(&pid_file, format!("{} 1\n", Pid::this())).unwrap();
        assert!(!runtime().block_on(end_leftover(&pid_file, Stop::TERM)).unwrap());
    }

    #[test]
    fn process_that_cannot_run_says_so_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let message = runtime().block_on(async {
            let mut command = Command::new("sh");
            command.args(["-c", "echo the reason; exit 7"]);
            let (log, pid_file) = (folder.path().join("sh.log"), folder.path().join("sh.pid"));
            let mut process = Process::start("sh", &mut command, &log, &pid_file, Stop::TERM).unwrap();
            process.wait().await.unwrap();
            process.ensure_running().unwrap_err().to_string()
        });
        assert!(message.contains("exit status: 7") && message.ends_with("the reason"), "{message}");
    }
}

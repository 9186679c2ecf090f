//! CPU time of processes, from `/proc`.

use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// A tick of `/proc/<pid>/stat`. Linux fixes USER_HZ at 100 towards programs, whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);

/// Returns the user and system time that a process and its ended threads have used.
///
/// # Errors
/// There is no such process.
pub fn of_process(pid: u32) -> Result<Duration> {
    Ok(Stat::read(pid)?.own)
}

/// Returns the same for a process, its ended children and its running ones: a PostgreSQL postmaster with its
/// sessions.
///
/// # Errors
/// There is no such process.
pub fn of_family(pid: u32) -> Result<Duration> {
    let parent = Stat::read(pid)?;
    let children = all().into_values().filter(|stat| stat.parent == pid).map(|stat| stat.own);
    Ok(parent.own + parent.ended_children + children.sum::<Duration>())
}

/// Returns the parent of a process.
///
/// # Errors
/// There is no such process.
pub fn parent_of(pid: u32) -> Result<u32> {
    Ok(Stat::read(pid)?.parent)
}

/// Returns the time that all cores have worked since the machine started, for processes and in the kernel.
///
/// # Errors
/// `/proc/stat` is not what proc(5) says.
pub fn of_machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read the machine's CPU time")?;
    busy(&text).context("read /proc/stat")
}

/// Sums up what all processes have used. Source: proc(5): the first line holds user, nice, system, idle,
/// iowait, irq and softirq.
fn busy(text: &str) -> Option<Duration> {
    let fields: Vec<u32> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let ticks = [0, 1, 2, 5, 6].iter().map(|field| fields.get(*field).copied());
    Some(TICK * ticks.sum::<Option<u32>>()?)
}

/// Reads every process that can be read; one that ends meanwhile is left out.
fn all() -> HashMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, Stat::read(pid).ok()?))).collect()
}

struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl Stat {
    fn read(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("read the CPU time of process {pid}"))?;
        Self::parse(&text).with_context(|| format!("read /proc/{pid}/stat"))
    }

    /// Parses `/proc/<pid>/stat`. Source: proc(5): the second field is a name in parentheses that may hold
    /// anything; the third follows its end.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u32>().ok();
        let time = |user: usize, system: usize| Some(TICK * (ticks(user)? + ticks(system)?));
        Some(Self { parent: ticks(4)?, own: time(14, 15)?, ended_children: time(16, 17)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_anything() {
        let stat = Stat::parse("7 (a) 9 ) (b) S 3 7 7 0 -1 0 0 0 0 0 150 50 10 20 20 0 1 0 5").unwrap();
        assert_eq!((stat.parent, stat.own), (3, Duration::from_secs(2)));
        assert_eq!(stat.ended_children, Duration::from_millis(300));
    }

    #[test]
    fn idle_cores_do_not_count() {
        let busy = busy("cpu  100 10 50 9999 888 5 35 0 0 0\ncpu0 1 2 3\n");
        assert_eq!(busy, Some(Duration::from_secs(2)));
    }

    #[test]
    fn own_time_is_there() {
        assert!(of_process(std::process::id()).is_ok() && of_machine().is_ok());
        assert!(of_family(parent_of(std::process::id()).unwrap()).is_ok());
    }
}

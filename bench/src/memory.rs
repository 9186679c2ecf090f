//! Memory of processes, from `/proc`.

use anyhow::{Context as _, Result};
use std::fs;

/// Returns the bytes of memory that a process has resident. Buffers of its sockets are the kernel's and not
/// among them.
///
/// # Errors
/// There is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("read the memory of process {pid}"))?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: u64| kib * 1024).with_context(|| format!("read VmRSS of process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_more_than_a_page() {
        assert!(resident_bytes(std::process::id()).unwrap() > 4096);
    }
}

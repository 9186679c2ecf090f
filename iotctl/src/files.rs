//! Files that are whole or absent, and secret ones that only their owner reads.

use anyhow::{Context as _, Result};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The users that may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// The owner alone: private keys, passwords, tokens.
    Owner,
    /// Every user of the machine: certificates, public keys.
    Everyone,
}

/// Writes `contents` so that a reader sees the old file or the new one, never a part.
///
/// # Errors
/// The folder cannot be made, or the file cannot be written beside its final name.
pub fn write(path: &Path, contents: &[u8], readers: Readers) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    let draft = draft_of(path);
    // A draft of a killed run may have wider permissions than this one asks for; a new file never has.
    let _ = fs::remove_file(&draft);
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .with_context(|| format!("create {}", draft.display()))?;
    file.write_all(contents)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("write {}", path.display()))
}

/// Reads a text file.
///
/// # Errors
/// The file is absent, unreadable or not UTF-8; the message names it.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Returns the secret in `path`, and makes it from 32 random letters and digits (190 bits) when there is none
/// yet.
///
/// # Errors
/// The file can be neither read nor written.
pub fn secret_or_new(path: &Path) -> Result<String> {
    if path.exists() {
        return Ok(read(path)?.trim().to_owned());
    }
    let secret = random_name(32);
    write(path, secret.as_bytes(), Readers::Owner)?;
    Ok(secret)
}

/// Returns `length` random letters and digits.
#[must_use]
pub fn random_name(length: usize) -> String {
    use rand::Rng as _;
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(length).map(char::from).collect()
}

/// Returns the last `lines` lines of a log, as far as its last 16 KiB hold them.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    /// Most bytes of a log that are read: enough for a stack trace; a log may be gigabytes.
    const TAIL_BYTES_MAX: u64 = 16 * 1024;
    let read_end = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read_end().unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".draft");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn secret_is_kept_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/password");
        let first = secret_or_new(&path).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(secret_or_new(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn tail_is_the_last_lines_of_a_long_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, text).unwrap();
        assert_eq!(tail(&path, 2), "line 9998\nline 9999");
        assert_eq!(tail(&folder.path().join("absent"), 2), "");
    }
}

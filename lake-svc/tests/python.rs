//! Programs that are not ours: DuckDB, and an S3 server.

use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;
use tokio::sync::OnceCell;

const REQUIREMENTS: &str = include_str!("requirements.txt");
static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();

/// Returns a Python that has them, installed once and checked by hash.
pub(crate) async fn python() -> &'static Path {
    PYTHON.get_or_init(install).await
}

async fn install() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lake-python");
    let (python, marker) = (folder.join("bin/python"), folder.join("requirements.txt"));
    // Written last, so it marks a complete installation.
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == REQUIREMENTS) {
        return python;
    }
    let _ = std::fs::remove_dir_all(&folder);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().await.unwrap();
    assert!(venv.status.success(), "python3 -m venv (Debian: python3-venv): {}", said(&venv));
    let listed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requirements.txt");
    let pip = Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["--require-hashes", "--only-binary", ":all:", "--requirement"])
        .arg(&listed)
        .output()
        .await
        .unwrap();
    assert!(pip.status.success(), "pip: {}", said(&pip));
    std::fs::write(&marker, REQUIREMENTS).unwrap();
    python
}

/// Runs a script and returns what it prints.
pub(crate) async fn run(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python().await).args(["-c", script]).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

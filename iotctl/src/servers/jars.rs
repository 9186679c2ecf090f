//! Jars that Maven resolves, copied into a folder once.

use crate::files::{self, Readers};
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Copies the jars that `pom` asks for into `folder` with Maven, unless the same set is there already; says
/// whether it did.
///
/// # Errors
/// Maven or Java is not installed, or a jar cannot be downloaded; the message holds Maven's last lines.
pub async fn resolve(folder: &Path, pom: &str) -> Result<bool> {
    // The pom itself marks a complete set: it is written last, and another version's pom differs.
    let marker = folder.join("pom.xml");
    if files::read(&marker).is_ok_and(|there| there == pom) {
        return Ok(false);
    }
    let draft = folder.with_extension("draft");
    for stale in [&draft, folder] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).with_context(|| format!("remove {}", stale.display()))?;
        }
    }
    let copied = draft.join("pom.xml");
    files::write(&copied, pom.as_bytes(), Readers::Everyone)?;
    let mut command = Command::new("mvn");
    command.args(["--batch-mode", "--quiet", "--file"]).arg(&copied).arg("dependency:copy-dependencies");
    command.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", draft.display()));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.context("run mvn (Debian: apt-get install maven)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    ensure!(output.status.success(), "Maven cannot resolve {name}: {}", said.trim());
    std::fs::rename(&draft, folder).with_context(|| format!("name the folder {name}"))?;
    Ok(true)
}

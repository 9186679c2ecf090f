//! Files and folders that only the gateway's own user may read: they hold readings. An operator's folder
//! keeps its rights.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Rights of a new file, whatever the umask allows beyond them.
const FILE_MODE: u32 = 0o600;
/// Rights of a new folder.
const FOLDER_MODE: u32 = 0o700;

/// Options that make a file for its owner alone; one that exists keeps its rights.
pub(crate) fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// It is not there and cannot be made.
pub(crate) fn create_dir(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spool/refused");
        create_dir(&folder).unwrap();
        let path = folder.join("record");
        file().write(true).create(true).truncate(true).open(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder), mode(folder.parent().unwrap())), (0o600, 0o700, 0o700));
    }
}

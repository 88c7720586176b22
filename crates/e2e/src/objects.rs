//! The object store of an embedded server: a directory, which an intruder may write.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of the object store.
#[derive(Debug)]
pub struct Objects {
    dir: PathBuf,
}

impl Objects {
    /// Those of a server with this data directory.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self { dir: data.join("objects") }
    }

    /// Every file whose path has this folder in it, such as `workspace`.
    #[must_use]
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = all_files(&self.dir);
        found.retain(|path| path.components().any(|part| part.as_os_str() == folder));
        found.sort();
        found
    }
}

/// Every regular file below a directory.
pub(crate) fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        // Directories come and go while a run is on.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files
}

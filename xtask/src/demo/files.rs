//! What lies in the files of a stand.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The first file below a folder in which the bytes stand.
pub fn find_in_files(folder: &Path, wanted: &[u8]) -> Result<Option<String>> {
    for path in files(folder)? {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if bytes.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(Some(path.display().to_string()));
        }
    }
    Ok(None)
}

/// Per kind of object: how many files, and how large together.
pub fn objects(folder: &Path) -> Result<Vec<(String, usize, u64)>> {
    let mut sums = BTreeMap::<String, (usize, u64)>::new();
    for path in files(folder)? {
        let below = path.strip_prefix(folder).unwrap_or(&path);
        let prefix: Vec<_> = below.iter().take(2).map(|part| part.to_string_lossy()).collect();
        let sum = sums.entry(prefix.join("/")).or_default();
        *sum = (sum.0 + 1, sum.1 + fs::metadata(&path)?.len());
    }
    Ok(sums.into_iter().map(|(prefix, (count, bytes))| (prefix, count, bytes)).collect())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

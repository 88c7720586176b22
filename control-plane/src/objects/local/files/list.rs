//! Listing in the order of keys.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::{Found, check_key, found, open_directory};

/// A directory's entries that are files or directories.
pub(super) fn entries(directory: BorrowedFd<'_>) -> io::Result<Vec<(String, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let mut file_type = entry.file_type();
        // Some file systems do not say.
        if file_type == FileType::Unknown {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            file_type = FileType::from_raw_mode(stat.st_mode);
        }
        if file_type == FileType::Directory || file_type == FileType::RegularFile {
            entries.push((name.to_owned(), file_type == FileType::Directory));
        }
    }
    Ok(entries)
}

/// Objects below `bucket` whose keys begin with `prefix` and come after `after`.
pub(super) fn walk(
    bucket: BorrowedFd<'_>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> io::Result<Vec<(String, Found)>> {
    let mut walk = Walk { prefix, after, limit, listed: Vec::new() };
    // What does not lie below the prefix is not even looked at.
    let (path, _) = prefix.split_at(prefix.rfind('/').map_or(0, |slash| slash + 1));
    let mut below = None;
    for name in path.split_terminator('/') {
        // No key begins with it, and it leads nowhere.
        if check_key(name).is_err() {
            return Ok(Vec::new());
        }
        let parent = below.as_ref().map_or(bucket, AsFd::as_fd);
        below = match open_directory(parent, Path::new(name)) {
            Ok(directory) => Some(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
    }
    walk.descend(below.as_ref().map_or(bucket, AsFd::as_fd), path)?;
    Ok(walk.listed)
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    listed: Vec<(String, Found)>,
}

impl Walk<'_> {
    /// Lists what is below a directory, whose keys begin with `path`. As deep as a key has segments.
    fn descend(&mut self, directory: BorrowedFd<'_>, path: &str) -> io::Result<()> {
        let entries = entries(directory)?.into_iter();
        let mut keys: Vec<(String, String, bool)> = entries
            .filter_map(|(name, is_directory)| {
                // A directory sorts with the slash that follows it in its keys.
                let key = match (is_directory, name.strip_suffix('~')) {
                    (true, None) => format!("{path}{name}/"),
                    (false, Some(last)) => format!("{path}{last}"),
                    (true, Some(_)) | (false, None) => return None,
                };
                Some((key, name, is_directory))
            })
            .collect();
        keys.sort_unstable();
        for (key, name, is_directory) in keys {
            if self.listed.len() >= self.limit {
                break;
            }
            if is_directory && self.may_hold(&key) {
                match open_directory(directory, Path::new(&name)) {
                    Ok(below) => self.descend(below.as_fd(), &key)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            } else if !is_directory && self.is_wanted(&key) {
                self.add(directory, key, &name)?;
            }
        }
        Ok(())
    }

    /// Whether keys that begin with `path` may be wanted.
    fn may_hold(&self, path: &str) -> bool {
        let is_before = |after: &str| path <= after && !after.starts_with(path);
        (path.starts_with(self.prefix) || self.prefix.starts_with(path))
            && !self.after.is_some_and(is_before)
    }

    fn is_wanted(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    fn add(&mut self, directory: BorrowedFd<'_>, key: String, name: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => self.listed.push((key, found(&File::from(file))?)),
            // It was deleted meanwhile.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

//! Takes a directory away, whatever a run has put into it.
//!
//! A tree can be deeper than a thread's stack or the number of descriptors allow, and have directories
//! that even their owner may not write to. So nothing here recurses: what lies deeper is moved up,
//! and two levels are all that is ever open. No link is followed.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes a directory with everything in it, if it is there. Follows no links.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let root = match open(CWD, path) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    // One of ours may be closed to ourselves too. What belongs to others is not ours to change.
    let _ = fchmod(&root, Mode::RWXU);
    let mut moved = 0;
    // Entries can be passed over while a directory changes, so it is read until it is empty.
    while let Err(error) = unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        match error {
            Errno::NOENT => return Ok(()),
            Errno::NOTEMPTY | Errno::EXIST => {}
            other => return Err(other.into()),
        }
        for_each(&root, |name| {
            if take_away(&root, name)? { Ok(()) } else { empty(&root, name, &mut moved) }
        })?;
    }
    Ok(())
}

/// Removes the directory `name`; directories in it that are not empty come up to `root`.
fn empty(root: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    make_writable(root, name);
    let directory = open(root, name)?;
    loop {
        for_each(&directory, |inner| {
            if take_away(&directory, inner)? {
                return Ok(());
            }
            make_writable(&directory, inner);
            loop {
                *moved += 1;
                match renameat(&directory, inner, root, format!("removing-{moved}")) {
                    // Something of that name is there.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    other => return Ok(other?),
                }
            }
        })?;
        match unlinkat(root, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Removes one entry; false if it is a directory that is not empty.
fn take_away(directory: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A directory of ours may be without our own permission to change it. Those of others are not ours to
/// change, and the next call says so.
fn make_writable(directory: &OwnedFd, name: &CStr) {
    let _ = chmodat(directory, name, Mode::RWXU, AtFlags::empty());
}

fn for_each(directory: &OwnedFd, mut each: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            each(name)?;
        }
    }
    Ok(())
}

fn open(directory: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("run");
        fs::create_dir(&path).unwrap();
        for (side, depth) in [("deep", 2000), ("removing-7", 3)] {
            let mut at = open(CWD, &path).unwrap();
            for level in 0..depth {
                let name = if level == 0 { side } else { "d" };
                mkdirat(&at, name, Mode::RWXU).unwrap();
                at = open(&at, name).unwrap();
            }
        }
        fs::write(path.join("file"), "").unwrap();
        // A call for each level would need more than this.
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let gone = path.clone();
        small.spawn(move || remove(&gone).unwrap()).unwrap().join().unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
    }

    /// A launcher that is not root could not empty it otherwise.
    #[test]
    fn a_tree_that_is_closed_to_its_owner_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("run");
        fs::create_dir_all(path.join("inner")).unwrap();
        for closed in [path.join("inner"), path.clone()] {
            fs::write(closed.join("file"), "").unwrap();
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        }
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_a_link_points_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        let path = outside.path().join("run");
        fs::create_dir_all(path.join("a/b")).unwrap();
        symlink(&kept, path.join("a/b/link")).unwrap();
        symlink(&kept, path.join("link")).unwrap();
        remove(&path).unwrap();
        symlink(&kept, &path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && kept.join("file").exists());
    }
}

//! Gives the workspace to the user that phases run as, and back to its owner after them.
//!
//! Nobody else runs then, but what is in the tree is not to be trusted: links are given away themselves
//! and never followed, and what is mounted into the tree is left alone. Root has no power over files
//! here but to give them away, so a directory that only its owner may enter is taken first, and given
//! away when its content was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid, chmodat,
    chownat, fchown, fstat, openat, stat, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Deeper trees are refused: each level keeps a descriptor open.
const MAX_DEPTH: usize = 256;

/// Who owns a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Root can do with every file what it wants, outside of this container.
    pub(crate) const fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// Whose `path` is.
pub(crate) fn owner_of(path: &Path) -> io::Result<Owner> {
    let stat = stat(path)?;
    Ok(Owner { uid: stat.st_uid, gid: stat.st_gid })
}

/// Gives `root` and everything below it to `to`.
pub(crate) fn give(root: &Path, to: Owner) -> io::Result<()> {
    let giver = Giver { uid: Uid::from_raw(to.uid), gid: Gid::from_raw(to.gid) };
    let root = enter(CWD, root)?;
    giver.give_content(&root, 0)?;
    giver.give_directory(&root)
}

/// Opens a directory, if need be by taking it, and by letting its owner in.
fn enter(dir: impl AsFd, name: impl Arg + Copy) -> io::Result<OwnedFd> {
    let open = || openat(&dir, name, FLAGS, Mode::empty());
    let mut opened = open();
    if opened.as_ref().err() == Some(&Errno::ACCESS) {
        let taken = Some(rustix::process::geteuid());
        chownat(&dir, name, taken, None, AtFlags::SYMLINK_NOFOLLOW)?;
        opened = open();
    }
    if opened.as_ref().err() == Some(&Errno::ACCESS) {
        chmodat(&dir, name, Mode::RWXU, AtFlags::empty())?;
        opened = open();
    }
    Ok(opened?)
}

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Giver {
    uid: Uid,
    gid: Gid,
}

impl Giver {
    const fn has(&self, uid: u32, gid: u32) -> bool {
        self.uid.as_raw() == uid && self.gid.as_raw() == gid
    }

    fn give_directory(&self, dir: &OwnedFd) -> io::Result<()> {
        let stat = fstat(dir)?;
        if !self.has(stat.st_uid, stat.st_gid) {
            fchown(dir, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }

    fn give_content(&self, dir: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("the workspace is nested deeper than 256 directories"));
        }
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let mask = StatxFlags::TYPE | StatxFlags::UID | StatxFlags::GID;
            let stat = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, mask)?;
            if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
                continue;
            }
            let is_dir = FileType::from_raw_mode(stat.stx_mode.into()).is_dir();
            if is_dir {
                // It may have been taken to be entered.
                let opened = enter(dir, name)?;
                self.give_content(&opened, depth + 1)?;
                self.give_directory(&opened)?;
            } else if !self.has(stat.stx_uid, stat.stx_gid) {
                chownat(dir, name, Some(self.uid), Some(self.gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_the_users_already_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("a/link")).unwrap();
        let before = dir.path().join("a/b/c").metadata().unwrap();
        give(dir.path(), owner_of(dir.path()).unwrap()).unwrap();
        let after = dir.path().join("a/b/c").metadata().unwrap();
        assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
    }

    #[test]
    fn a_tree_without_a_bottom_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/".repeat(300))).unwrap();
        assert!(
            give(dir.path(), Owner { uid: 0, gid: 0 }).unwrap_err().to_string().contains("256")
        );
    }
}

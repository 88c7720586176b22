//! Gives the workspace to the user that phases run as.
//!
//! Nobody else runs yet, but the tree was laid out from sources that are not trusted: links are given
//! away themselves and never followed, and what is mounted into the tree is left alone. Root has no
//! power over files here but to give them away, so a directory that only its owner may enter is taken
//! first, and given away when its content was.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_spool::order::User;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid, chownat,
    fchown, openat, statx,
};
use rustix::io::Errno;

/// Deeper trees are refused: each level keeps a descriptor open.
const MAX_DEPTH: usize = 256;

/// Gives `root` and everything below it to `user`.
pub(crate) fn give(root: &Path, user: &User) -> io::Result<()> {
    let giver = Giver { uid: Uid::from_raw(user.uid), gid: Gid::from_raw(user.gid) };
    let root = openat(CWD, root, FLAGS, Mode::empty())?;
    giver.give_content(&root, 0)?;
    let stat = rustix::fs::fstat(&root)?;
    if !giver.has(stat.st_uid, stat.st_gid) {
        fchown(&root, Some(giver.uid), Some(giver.gid))?;
    }
    Ok(())
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
            let mut has = self.has(stat.stx_uid, stat.stx_gid);
            if is_dir {
                let opened = match openat(dir, name, FLAGS, Mode::empty()) {
                    Err(Errno::ACCESS) => {
                        let taken = Some(rustix::process::geteuid());
                        chownat(dir, name, taken, None, AtFlags::SYMLINK_NOFOLLOW)?;
                        has = false;
                        openat(dir, name, FLAGS, Mode::empty())
                    }
                    other => other,
                };
                self.give_content(&opened?, depth + 1)?;
            }
            if !has {
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
        let stat = dir.path().metadata().unwrap();
        let user = User { uid: stat.uid(), gid: stat.gid(), home: String::new() };
        give(dir.path(), &user).unwrap();
    }

    #[test]
    fn a_tree_without_a_bottom_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/".repeat(300))).unwrap();
        let user = User { uid: 0, gid: 0, home: String::new() };
        assert!(give(dir.path(), &user).unwrap_err().to_string().contains("256"));
    }
}

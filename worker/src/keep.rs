//! Keeps from the phases what is the launcher's: the directory `/gantry` and everything in it.
//!
//! Two things stand between a phase and the spool, and either is enough. Nobody but root enters `/gantry`,
//! whatever mode engine or image gave it. And what lies below belongs to root and to a group of the launcher's
//! that the phases do not have, also where the launcher has the very user and group of the phases.

use std::fs;
use std::io;
use std::path::Path;

use gantry_spool::ANSWERS;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RawMode, Uid, chmodat, chownat, lstat};
use rustix::thread::set_thread_groups;

use crate::places::Places;
use crate::users::User;

/// Nobody but root.
const OWN: RawMode = 0o700;
/// Root, and the launcher through the group.
const SHARED: RawMode = 0o770;

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("the image has something else than a directory at {0}: remove it from the image")]
    NoDirectory(String),
    #[error("cannot keep {path} from the phases")]
    Io { path: String, source: io::Error },
    #[error(
        "the phases have the group {gid}, and the launcher has no other group, so nothing would keep its files from them: give the launcher's user a further group, such as that of Docker's socket, or the image another user"
    )]
    NoGroup { gid: u32 },
}

/// Closes the directory that holds everything of the launcher's, and what engine or image made in it. A tmpfs
/// gets its mode from the directory that it is mounted on, be it the image's or one that the engine made on the
/// way. The launcher's directories stay as they are: they may be those of a stage that was begun before.
pub(crate) fn close(places: &Places) -> Result<(), NotKept> {
    set(&places.root, None, OWN)?;
    let at = failed(&places.root);
    for entry in fs::read_dir(&places.root).map_err(&at)? {
        let path = entry.map_err(&at)?.path();
        let is_directory = path.symlink_metadata().map_err(failed(&path))?.is_dir();
        if is_directory && path != places.spool && path != places.order {
            set(&path, None, OWN)?;
        }
    }
    Ok(())
}

/// Takes the launcher's directories for root and a group of the launcher's that is not `user`'s. `groups` are
/// those that the launcher has; none if it is root.
pub(crate) fn take(places: &Places, groups: &[u32], user: &User) -> Result<(), NotKept> {
    let spool = lstat(&places.spool).map_err(|error| failed(&places.spool)(error.into()))?;
    // Root outside is root in here, and so is the launcher of an engine without root.
    let is_roots = spool.st_uid == 0 && !groups.contains(&spool.st_gid);
    let (group, mode) = if is_roots {
        (None, OWN)
    } else {
        let other = groups.iter().find(|gid| **gid != user.gid);
        // Nothing is kept from root, and whoever allowed it knows.
        let any = groups.first().filter(|_| user.uid == 0);
        (Some(*other.or(any).ok_or(NotKept::NoGroup { gid: user.gid })?), SHARED)
    };
    // The spool last: it says at a second start that all is done.
    for directory in [&places.order, &places.spool.join(ANSWERS), &places.spool] {
        set(directory, group, mode)?;
    }
    for entry in fs::read_dir(&places.order).map_err(failed(&places.order))? {
        own(&entry.map_err(failed(&places.order))?.path(), group)?;
    }
    Ok(())
}

/// Root without any group: what it needs is its own from here on, and no phase and nothing that is done in a
/// user's place has a group of the launcher's.
pub(crate) fn drop_groups() -> io::Result<()> {
    if rustix::process::geteuid().is_root() { Ok(set_thread_groups(&[])?) } else { Ok(()) }
}

fn set(path: &Path, group: Option<u32>, mode: RawMode) -> Result<(), NotKept> {
    let stat = lstat(path).map_err(|error| failed(path)(error.into()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(NotKept::NoDirectory(path.display().to_string()));
    }
    own(path, group)?;
    // Nobody else runs yet who could put a link there.
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(|error| failed(path)(error.into()))
}

fn own(path: &Path, group: Option<u32>) -> Result<(), NotKept> {
    let uid = Some(Uid::ROOT);
    let gid = group.map(Gid::from_raw);
    chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed(path)(error.into()))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> NotKept {
    let path = path.display().to_string();
    move |source| NotKept::Io { path: path.clone(), source }
}

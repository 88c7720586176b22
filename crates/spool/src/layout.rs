//! Which files a spool consists of.
//!
//! All lie in one directory, except for the launcher's answers, which are the only thing that the
//! launcher writes: they have a directory of their own, so that neither side waits for the other.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, openat, openat2,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::SpoolError;

/// The directory of the launcher's answers, within the spool.
pub const ANSWERS: &str = "answers";
pub(crate) const BEGUN: &str = "begun";
/// Room that is kept free for events when the disk fills up.
pub(crate) const RESERVE: &str = "reserve";

/// Files that are too large for frames. A frame names each once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SideName {
    /// `state-<n>.tfstate`: the attempt's n-th state version, from 1.
    State(u64),
    /// `plan.json`.
    Plan,
    /// `outputs.json`.
    Outputs,
    /// `errored.tfstate`.
    Errored,
    /// `environment.json`: what hooks made of the environment.
    Environment,
}

impl fmt::Display for SideName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(number) => write!(f, "state-{number}.tfstate"),
            Self::Plan => f.write_str("plan.json"),
            Self::Outputs => f.write_str("outputs.json"),
            Self::Errored => f.write_str("errored.tfstate"),
            Self::Environment => f.write_str("environment.json"),
        }
    }
}

impl From<SideName> for String {
    fn from(name: SideName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for SideName {
    type Error = InvalidSideName;

    fn try_from(text: String) -> Result<Self, InvalidSideName> {
        text.parse()
    }
}

/// A name that no side file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the name of a side file: state-<n>.tfstate, plan.json, outputs.json, errored.tfstate or environment.json"
)]
pub struct InvalidSideName;

impl FromStr for SideName {
    type Err = InvalidSideName;

    fn from_str(text: &str) -> Result<Self, InvalidSideName> {
        let name = match text {
            "plan.json" => Self::Plan,
            "outputs.json" => Self::Outputs,
            "errored.tfstate" => Self::Errored,
            "environment.json" => Self::Environment,
            other => other
                .strip_prefix("state-")
                .and_then(|rest| rest.strip_suffix(".tfstate"))
                .and_then(|digits| digits.parse().ok())
                .map(Self::State)
                .ok_or(InvalidSideName)?,
        };
        // `state-01` or `state-+1` would be a second spelling.
        if name.to_string() == text { Ok(name) } else { Err(InvalidSideName) }
    }
}

pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
}

pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

fn stored_name(number: u64) -> String {
    format!("stored-{number}")
}

/// Makes what the launcher must make in a new spool directory before the container starts.
///
/// The worker binary may look into the directory of answers through its group, whatever the umask.
///
/// # Errors
/// When the directory of answers can be neither made nor found.
pub fn lay_out(dir: &Path) -> Result<(), SpoolError> {
    let failed = |error: io::Error| SpoolError::io("make", ANSWERS, error);
    let answers = dir.join(ANSWERS);
    match std::fs::create_dir(&answers) {
        Ok(()) => {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
            std::fs::set_permissions(&answers, mode).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Tells the worker binary that state version `number` is durable at the control plane. Idempotent.
///
/// # Errors
/// When the mark cannot be made; the worker binary then answers the tool after its own time limit.
pub fn mark_stored(dir: &Path, number: u64) -> Result<(), SpoolError> {
    let failed = |error: Errno| SpoolError::io("make", stored_name(number), error.into());
    let dir = open_dir(dir)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let answers = open_beneath(&dir, ANSWERS, flags, Mode::empty()).map_err(failed)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    match open_beneath(&answers, &stored_name(number), flags, mode) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Whether the launcher answered state version `number`.
#[must_use]
pub fn is_stored(dir: &Path, number: u64) -> bool {
    dir.join(ANSWERS).join(stored_name(number)).symlink_metadata().is_ok()
}

pub(crate) fn open_dir(dir: &Path) -> Result<OwnedFd, SpoolError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    openat(CWD, dir, flags, Mode::empty())
        .map_err(|error| SpoolError::io("open", ".", error.into()))
}

/// Opens one file of a directory whose content is not trusted.
///
/// `name` is a single component, so that `O_NOFOLLOW` alone holds where a kernel or a sandbox has
/// no `openat2`.
pub(crate) fn open_beneath(
    dir: &impl AsFd,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, name, flags, mode, resolve) {
        Err(Errno::NOSYS | Errno::PERM) => openat(dir, name, flags, mode),
        other => other,
    }
}

/// Opens a file for reading; anything but a regular file is an error, never a wait.
pub(crate) fn open_regular(dir: &impl AsFd, name: &str) -> Result<Option<File>, SpoolError> {
    let failed = |error: Errno| SpoolError::io("open", name, error.into());
    let fd = match open_beneath(dir, name, OFlags::RDONLY, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(SpoolError::NotRegular { name: name.to_owned() }),
        Err(error) => return Err(failed(error)),
    };
    let stat = fstat(&fd).map_err(failed)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        Ok(Some(File::from(fd)))
    } else {
        Err(SpoolError::NotRegular { name: name.to_owned() })
    }
}

/// Whether there is a file of this name, of whatever kind. That it cannot be seen is no answer.
pub(crate) fn exists(dir: &impl AsFd, name: &str) -> Result<bool, SpoolError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(SpoolError::io("look for", name, error.into())),
    }
}

/// Makes a file of the writer's that the launcher's group may read and remove.
///
/// The worker binary is root without any power over files, the launcher is some other user: they
/// meet in the group of the directory.
pub(crate) fn create_new(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::from_raw_mode(0o660))?;
    let group = fstat(dir)?.st_gid;
    if fstat(&file)?.st_gid != group {
        fchown(&file, None, Some(Gid::from_raw(group)))?;
    }
    fchmod(&file, Mode::from_raw_mode(0o660))?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_name_has_one_spelling() {
        for name in ["state-1.tfstate", "plan.json", "outputs.json", "errored.tfstate"] {
            assert_eq!(name.parse::<SideName>().unwrap().to_string(), name);
        }
        for wrong in
            ["", "state-01.tfstate", "state-+1.tfstate", "state-.tfstate", "../plan.json", "begun"]
        {
            assert!(wrong.parse::<SideName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_segment_has_one_name() {
        assert_eq!(segment_number("00000012.seg"), Some(12));
        for wrong in ["12.seg", "+0000012.seg", "00000012.seg.", "000000012.seg", "x.seg"] {
            assert_eq!(segment_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_given_once_and_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path()).unwrap();
        assert!(!is_stored(dir.path(), 3));
        mark_stored(dir.path(), 3).unwrap();
        mark_stored(dir.path(), 3).unwrap();
        assert!(is_stored(dir.path(), 3));
    }

    #[test]
    fn an_answer_does_not_follow_a_planted_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join(ANSWERS)).unwrap();
        mark_stored(dir.path(), 1).unwrap_err();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

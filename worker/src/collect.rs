//! Takes the file that a tool leaves when it could not hand over its state.
//!
//! The file lies where phases may write, and root has no power over files here. So it is opened with
//! the user's own identity: whatever a phase plants in its place, nothing is read that the phase
//! could not have read itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use gantry_spool::order::MAX_STATE;
use gantry_spool::{SideFile, SideName};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::spool::Spool;
use crate::users::User;

/// Tells one file and its content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

/// Looks for the file after each phase, and takes it once.
pub(crate) struct Collector {
    directory: String,
    name: String,
    user: User,
    known: Option<Identity>,
}

impl Collector {
    /// A file that is there before the first phase is part of the source.
    pub(crate) fn new(directory: &str, name: &str, user: &User) -> Self {
        let mut collector = Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            user: user.clone(),
            known: None,
        };
        collector.known = collector.open().ok().flatten().map(|(_, identity)| identity);
        collector
    }

    /// What the file is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Copies the file into the spool if there is a new one.
    pub(crate) fn collect(&mut self, spool: &Spool) -> io::Result<Option<SideFile>> {
        let Some((mut source, identity)) = self.open()? else { return Ok(None) };
        if self.known == Some(identity) {
            return Ok(None);
        }
        self.known = Some(identity);
        if identity.size > MAX_STATE {
            return Err(io::Error::other("it is larger than 1 GiB"));
        }
        let mut target = spool.side_file(MAX_STATE).map_err(io::Error::other)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                read => target.write_all(&buffer[..read])?,
            }
        }
        target.finish(SideName::Errored).map(Some).map_err(io::Error::other)
    }

    fn open(&self) -> io::Result<Option<(File, Identity)>> {
        let opened = as_user(&self.user, || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat(CWD, self.directory.as_str(), flags, Mode::empty())?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(&directory, self.name.as_str(), flags, Mode::empty())
        })?;
        let file: OwnedFd = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(None);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let changed = (stat.st_mtime, stat.st_mtime_nsec.cast_signed());
        Ok(Some((File::from(file), Identity { inode: stat.st_ino, changed, size })))
    }
}

/// Does something with the user's rights to files. Only this thread's, and this program has one. Further groups
/// were dropped at the start.
fn as_user<T>(user: &User, act: impl FnOnce() -> T) -> io::Result<T> {
    let own = (geteuid(), getegid());
    let theirs = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if own == theirs {
        return Ok(act());
    }
    set_thread_res_gid(None, theirs.1, None)?;
    let result = match set_thread_res_uid(None, theirs.0, None) {
        Ok(()) => {
            let result = act();
            set_thread_res_uid(None, own.0, None).map(|()| result)
        }
        Err(error) => Err(error),
    };
    set_thread_res_gid(None, own.1, None)?;
    Ok(result?)
}

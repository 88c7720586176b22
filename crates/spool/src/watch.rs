//! Notices changes of a directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;

/// A descriptor that becomes readable when something in a directory changes.
///
/// It is a hint: events may be lost or be about something else, so look again each second anyway.
/// After waking, call [`Watch::drain`] *before* looking at the directory.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches the files of `dir`, not those of directories within it.
    ///
    /// # Errors
    /// When `dir` is not a directory or the host allows no further watch.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let what = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        add_watch(&watch, dir, what)?;
        Ok(Self(watch))
    }

    /// Forgets what happened so far.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn drain(&self) -> io::Result<()> {
        let mut events = [MaybeUninit::<u8>::uninit(); 4096];
        loop {
            match rustix::io::read(&self.0, &mut events) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(watch: &Watch) -> bool {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&none)).unwrap() == 1
    }

    #[test]
    fn a_change_wakes_the_watch() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new(dir.path()).unwrap();
        assert!(!is_readable(&watch));
        std::fs::write(dir.path().join("a"), "b").unwrap();
        assert!(is_readable(&watch));
        watch.drain().unwrap();
        assert!(!is_readable(&watch));
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert!(is_readable(&watch));
    }
}

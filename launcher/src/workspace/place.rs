//! Puts what an archive has where it belongs, below one directory.
//!
//! Every directory on the way is opened from the one above it and no link is followed, so nothing lands
//! elsewhere, and a path may be longer than the kernel takes at once: in the container, where it was
//! made, the way to it is shorter. What is zero takes no place on the disk.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, mkdirat,
    openat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// How much of a file is written, or left out, at once.
const PART: usize = 128 * 1024;

/// Mode and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) mode: u32,
    pub(super) mtime: u64,
}

/// Takes entries one after the other.
pub(super) struct Placer {
    root: OwnedFd,
    /// The directory of the last entry: the next one is mostly in it too.
    last: Option<(PathBuf, OwnedFd)>,
    /// Directories get their looks when everything is in them: some may not be written to.
    directories: Vec<(PathBuf, Look)>,
    part: Vec<u8>,
}

/// The names in a path; none if it leads up.
fn names(path: &Path) -> Option<PathBuf> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Some(name)),
            Component::ParentDir => Some(None),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

impl Placer {
    pub(super) fn below(directory: &Path) -> io::Result<Self> {
        let root = openat(CWD, directory, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, last: None, directories: Vec::new(), part: vec![0; PART] })
    }

    /// Whether the path stays below the directory.
    pub(super) fn is_below(path: &Path) -> bool {
        names(path).is_some()
    }

    pub(super) fn directory(&mut self, path: &Path, look: Look) -> io::Result<()> {
        let Some(path) = names(path).filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(());
        };
        self.enter(&path)?;
        self.directories.push((path, look));
        Ok(())
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let target = target.as_os_str();
        in_place_of_another(parent, &name, || symlinkat(target, parent, &*name))
    }

    pub(super) fn file(
        &mut self,
        path: &Path,
        look: Look,
        mut content: impl Read,
    ) -> io::Result<()> {
        let mut part = std::mem::take(&mut self.part);
        let (parent, name) = self.parent(path)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || openat(parent, &*name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(in_place_of_another(parent, &name, make)?);
        let mut at = 0;
        let mut written = 0;
        loop {
            let length = fill(&mut content, &mut part)?;
            if length == 0 {
                break;
            }
            let filled = &part[..length];
            if !is_zero(filled) {
                file.write_all_at(filled, at)?;
                written = at + length as u64;
            }
            at += length as u64;
        }
        if written < at {
            file.set_len(at)?;
        }
        self.part = part;
        look_like(&file.into(), look)
    }

    /// Gives the directories their modes and times.
    pub(super) fn finish(mut self) -> Result<(), (PathBuf, io::Error)> {
        self.last = None;
        // The innermost first: whoever may not enter the outer one would not get there any more.
        while let Some((path, look)) = self.directories.pop() {
            let looked = self.enter(&path).and_then(|directory| look_like(directory, look));
            looked.map_err(|error| (path, error))?;
        }
        Ok(())
    }

    /// The directory that holds `path`, made if need be, and the last name.
    fn parent(&mut self, path: &Path) -> io::Result<(&OwnedFd, Box<OsStr>)> {
        let path = names(path).unwrap_or_default();
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.enter(parent)?, name.into()))
    }

    fn enter(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut directory = openat(&self.root, ".", DIRECTORY, Mode::empty())?;
            for name in path {
                match mkdirat(&directory, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                directory = openat(&directory, name, DIRECTORY, Mode::empty())?;
            }
            self.last = Some((path.to_owned(), directory));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory),
            None => Ok(&self.root),
        }
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An archive may have a name twice: the later one counts.
fn in_place_of_another<T>(
    parent: &OwnedFd,
    name: &OsStr,
    make: impl Fn() -> Result<T, Errno>,
) -> io::Result<T> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(make()?)
        }
        made => Ok(made?),
    }
}

fn look_like(file: &OwnedFd, look: Look) -> io::Result<()> {
    let seconds = i64::try_from(look.mtime).unwrap_or(0);
    futimens(
        file,
        &Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
        },
    )?;
    Ok(fchmod(file, Mode::from_raw_mode(look.mode & 0o777))?)
}

fn fill(content: &mut impl Read, part: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < part.len() {
        match content.read(&mut part[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|some| some.iter().fold(0, |sum, byte| sum | byte) == 0)
}

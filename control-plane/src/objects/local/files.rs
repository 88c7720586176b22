//! Objects as files.
//!
//! Segments of a key are directories, its last one is a file whose name ends in `~`, a character that
//! no key has: so `a` and `a/b` can both exist. Nothing outside the store is ever reached, because
//! keys are checked and no link is followed. A file appears whole, durable and once.

mod list;

use std::fs::File;
use std::io::{self, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::super::{BUCKET, MAX_LIST, ObjectsError, check_key};

/// Where files are until they are whole.
const UNFINISHED: &str = "unfinished~";

/// How long a sender may pause.
const PAUSE: Duration = Duration::from_mins(1);

/// How often an object's directory is made anew when it is removed, being empty, at the same moment.
const MAX_TRIES: usize = 16;

/// After how many bytes the free space is looked at again.
const SPACE_EVERY: u64 = 32 << 20;

/// How large objects may be and how full the disk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest object, in bytes.
    pub object: u64,
    /// How much of the disk is left for other things, such as the database, in bytes.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { object: 5 << 30, reserve: 256 << 20 }
    }
}

/// The store's directory.
#[derive(Debug)]
pub struct Files {
    bucket: OwnedFd,
    unfinished: OwnedFd,
    limits: Limits,
    count: AtomicU64,
}

/// What is known of an object besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its size in bytes.
    pub size: u64,
    /// When it was made.
    pub made: SystemTime,
}

/// An object that is being read.
#[derive(Debug)]
pub struct Opened {
    /// What is known of it.
    pub found: Found,
    file: File,
}

impl Opened {
    /// Its content from an offset on.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn seek(self, offset: u64) -> io::Result<tokio::fs::File> {
        let mut file = tokio::fs::File::from_std(self.file);
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).await?;
        }
        Ok(file)
    }
}

/// An object that is whole and durable, but not there yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Unfinished {
    files: Arc<Files>,
    key: String,
    name: String,
    found: Found,
}

impl Files {
    /// Opens the store, and makes it when it is not there. What an earlier process left unfinished is
    /// removed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, ObjectsError> {
        let open = || -> io::Result<Self> {
            let root = open_directory(CWD, directory)?;
            let bucket = make_directory(root.as_fd(), BUCKET)?;
            let unfinished = make_directory(root.as_fd(), UNFINISHED)?;
            let left = list::entries(unfinished.as_fd())?.into_iter();
            for (name, _) in left.filter(|(_, is_directory)| !is_directory) {
                rustix::fs::unlinkat(&unfinished, name, AtFlags::empty())?;
            }
            Ok(Self { bucket, unfinished, limits, count: AtomicU64::new(0) })
        };
        open().map_err(|error| failed("open", &directory.display().to_string(), error))
    }

    /// Writes an object that is not there yet and shows each part to `look` on the way. It is there
    /// after [`Unfinished::commit`].
    ///
    /// # Errors
    /// [`ObjectsError::Exists`], [`ObjectsError::TooLarge`], [`ObjectsError::NoSpace`], or when the
    /// body or the file system fails, or the body pauses or ends early.
    pub async fn put<E>(
        self: &Arc<Self>,
        key: &str,
        size: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        look: impl FnMut(&[u8]) + Send,
    ) -> Result<Unfinished, ObjectsError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        check_key(key)?;
        let too_large =
            || ObjectsError::TooLarge { key: key.to_owned(), limit: self.limits.object };
        if size.is_some_and(|size| size > self.limits.object) {
            return Err(too_large());
        }
        if self.find(key).await?.is_some() {
            return Err(ObjectsError::Exists { key: key.to_owned() });
        }
        self.check_space(key, size.unwrap_or(0))?;
        let name = format!("{}~", self.count.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.unfinished, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| explain("put", key, error.into()))?;
        let found = Found { size: 0, made: SystemTime::UNIX_EPOCH };
        let mut unfinished =
            Unfinished { files: Arc::clone(self), key: key.to_owned(), name, found };
        let file = tokio::fs::File::from_std(File::from(file));
        let written = self.write(key, file, body, look).await?;
        if size.is_some_and(|size| size != written) {
            return Err(failed("put", key, io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        unfinished.found.size = written;
        Ok(unfinished)
    }

    async fn write<E>(
        &self,
        key: &str,
        mut file: tokio::fs::File,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        mut look: impl FnMut(&[u8]) + Send,
    ) -> Result<u64, ObjectsError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = std::pin::pin!(body);
        let (mut written, mut looked) = (0_u64, 0_u64);
        loop {
            let chunk = tokio::time::timeout(PAUSE, body.next()).await;
            let Some(chunk) = chunk.map_err(|pause| failed("put", key, pause))? else { break };
            let chunk = chunk.map_err(|error| failed("put", key, error))?;
            written += chunk.len() as u64;
            if written > self.limits.object {
                let limit = self.limits.object;
                return Err(ObjectsError::TooLarge { key: key.to_owned(), limit });
            }
            if written - looked >= SPACE_EVERY {
                looked = written;
                self.check_space(key, 0)?;
            }
            look(&chunk);
            file.write_all(&chunk).await.map_err(|error| explain("put", key, error))?;
        }
        file.flush().await.map_err(|error| explain("put", key, error))?;
        file.sync_all().await.map_err(|error| explain("put", key, error))?;
        Ok(written)
    }

    /// Opens an object.
    ///
    /// # Errors
    /// [`ObjectsError::NotFound`], or when the file system refuses.
    pub async fn get(self: &Arc<Self>, key: &str) -> Result<Opened, ObjectsError> {
        let opened = self.blocking("get", key, Self::open_file).await?;
        opened.ok_or_else(|| ObjectsError::NotFound { key: key.to_owned() })
    }

    /// Looks at an object.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn find(self: &Arc<Self>, key: &str) -> Result<Option<Found>, ObjectsError> {
        let opened = self.blocking("look at", key, Self::open_file).await?;
        Ok(opened.map(|opened| opened.found))
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn delete(self: &Arc<Self>, key: &str) -> Result<(), ObjectsError> {
        self.blocking("delete", key, |files, key| {
            let (directories, name) = split(key);
            let Some(directory) = files.directory(&directories, false)? else { return Ok(()) };
            match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
                Ok(()) => rustix::fs::fsync(&directory)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            files.prune(&directories)
        })
        .await
    }

    /// Removes directories that hold nothing any more, from the innermost on.
    fn prune(&self, names: &[&str]) -> io::Result<()> {
        for depth in (0..names.len()).rev() {
            let Some(parent) = self.directory(&names[..depth], false)? else { continue };
            match rustix::fs::unlinkat(&parent, names[depth], AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Objects whose keys begin with `prefix` and come after `after`, in the order of their keys.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn list(
        self: &Arc<Self>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Found)>, ObjectsError> {
        let (files, wanted) = (Arc::clone(self), prefix.to_owned());
        let after = after.map(str::to_owned);
        let walk = move || {
            list::walk(files.bucket.as_fd(), &wanted, after.as_deref(), limit.min(MAX_LIST))
        };
        let listed = tokio::task::spawn_blocking(walk).await;
        listed.map_err(io::Error::other).flatten().map_err(|error| failed("list", prefix, error))
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        act: &'static str,
        key: &str,
        run: impl FnOnce(&Self, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObjectsError> {
        check_key(key)?;
        let (files, owned) = (Arc::clone(self), key.to_owned());
        let done = tokio::task::spawn_blocking(move || run(&files, &owned)).await;
        done.map_err(io::Error::other).flatten().map_err(|error| explain(act, key, error))
    }

    fn open_file(&self, key: &str) -> io::Result<Option<Opened>> {
        let (directories, name) = split(key);
        let Some(directory) = self.directory(&directories, false)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = found(&file)?;
        Ok(Some(Opened { found, file }))
    }

    /// The directory of a key: `None` if it is not there and not to be made.
    fn directory(&self, names: &[&str], is_made: bool) -> io::Result<Option<OwnedFd>> {
        let mut directory = rustix::io::fcntl_dupfd_cloexec(&self.bucket, 0)?;
        for name in names {
            let next = open_directory(directory.as_fd(), Path::new(name));
            directory = match next {
                Ok(next) => next,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_made => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_directory(directory.as_fd(), name)?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(Some(directory))
    }

    /// Whether there is room for so many bytes and the reserve.
    fn check_space(&self, key: &str, size: u64) -> Result<(), ObjectsError> {
        let space = rustix::fs::fstatvfs(&self.unfinished)
            .map_err(|error| explain("put", key, error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < size.saturating_add(self.limits.reserve) {
            return Err(ObjectsError::NoSpace { key: key.to_owned() });
        }
        Ok(())
    }
}

impl Unfinished {
    /// Makes the object be there, durably, unless another one was faster.
    ///
    /// # Errors
    /// [`ObjectsError::Exists`], or when the file system refuses.
    pub async fn commit(self) -> Result<Found, ObjectsError> {
        let files = Arc::clone(&self.files);
        let key = self.key.clone();
        let commit = move |files: &Files, key: &str| {
            let (directories, name) = split(key);
            let flags = RenameFlags::NOREPLACE;
            let from = &files.unfinished;
            for _ in 0..MAX_TRIES {
                let directory = match files.directory(&directories, true) {
                    Ok(directory) => directory.ok_or(io::ErrorKind::NotFound)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                match rustix::fs::renameat_with(from, &self.name, &directory, &name, flags) {
                    Ok(()) => rustix::fs::fsync(&directory)?,
                    // The directory was pruned in between.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                }
                return Ok(self.found);
            }
            Err(io::ErrorKind::NotFound.into())
        };
        files.blocking("put", &key, commit).await
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a commit there is nothing of this name. Names are not used twice.
        let _ = rustix::fs::unlinkat(&self.files.unfinished, &self.name, AtFlags::empty());
    }
}

/// A key's directories and the name of its file.
fn split(key: &str) -> (Vec<&str>, String) {
    let mut directories: Vec<&str> = key.split('/').collect();
    let name = directories.pop().unwrap_or_default();
    (directories, format!("{name}~"))
}

fn found(file: &File) -> io::Result<Found> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Found { size: found.len(), made: found.modified()? })
}

fn open_directory(parent: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, path, flags, Mode::empty())?)
}

/// Makes a directory durably, or opens the one that is there.
fn make_directory(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(parent)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_directory(parent, Path::new(name))
}

fn explain(act: &'static str, key: &str, error: io::Error) -> ObjectsError {
    let key = key.to_owned();
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => ObjectsError::Exists { key },
        Some(Errno::NOSPC | Errno::DQUOT) => ObjectsError::NoSpace { key },
        Some(_) | None => ObjectsError::Failed { act, key, source: error.into() },
    }
}

pub(super) fn failed(
    act: &'static str,
    key: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ObjectsError {
    ObjectsError::Failed { act, key: key.to_owned(), source: source.into() }
}

//! Archives: `tar` in `zstd`.
//!
//! What is packed was made by a run, and what is unpacked came from outside. Packing goes down from a
//! directory one name at a time and follows no link; unpacking never leaves its directory. Both are
//! bounded in entries, names and bytes, whatever the files or the archive claim.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::place::{Look, Placer};

/// The most entries of an archive.
const MAX_ENTRIES: u64 = 1_000_000;
/// The most bytes that an archive may unpack to: 32 GiB.
const MAX_UNPACKED: u64 = 32 << 30;
/// The most bytes that the names in an archive may have together.
const MAX_NAMES: u64 = 256 << 20;
/// The most bytes of an archive that stand between two entries' contents: headers and long names.
const MAX_HEAD: u64 = 1 << 20;
/// The deepest tree that the worker binary lends to a run's user.
const MAX_DEPTH: usize = 256;
/// Fast, and still half the size for sources and providers.
const LEVEL: i32 = 1;

/// Why an archive cannot be made or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading or writing failed.
    #[error("cannot pack or unpack {path}: check the disk, and that the archive is tar in zstd")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error(
        "with {0} the archive has more than {MAX_ENTRIES} files or unpacks to more than 32 GiB, counting what a sparse file only claims: leave out what the run does not need"
    )]
    TooLarge(PathBuf),
    /// It goes too deep.
    #[error("{0} lies deeper than {MAX_DEPTH} directories: flatten it, or leave it out")]
    TooDeep(PathBuf),
    /// It wants out of its directory.
    #[error("the archive's entry {0} would lie outside of the workspace: nothing more is unpacked")]
    Escapes(PathBuf),
    /// It has something that is neither file nor directory nor symbolic link.
    #[error("the archive's entry {0} is neither a file nor a directory nor a symbolic link")]
    Special(PathBuf),
}

fn at(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io { path: path.clone(), source }
}

/// What an archive may still take.
struct Room {
    entries: u64,
    names: u64,
    bytes: u64,
}

impl Room {
    const fn new() -> Self {
        Self { entries: MAX_ENTRIES, names: MAX_NAMES, bytes: MAX_UNPACKED }
    }

    fn take(&mut self, name: &Path, bytes: u64) -> Result<(), ArchiveError> {
        let too_large = || ArchiveError::TooLarge(name.to_owned());
        let left = |left: u64, taken| left.checked_sub(taken).ok_or_else(too_large);
        self.entries = left(self.entries, 1)?;
        self.names = left(self.names, name.as_os_str().len() as u64)?;
        self.bytes = left(self.bytes, bytes)?;
        Ok(())
    }
}

/// Packs everything below `directory`: files, directories and symbolic links as such. Nothing else is
/// packed and no link is followed. Owners are not kept.
///
/// # Errors
/// [`ArchiveError::Io`] and [`ArchiveError::TooLarge`].
pub fn pack(directory: &Path, into: impl Write) -> Result<(), ArchiveError> {
    let failed = at(directory);
    let root = open(&CWD, directory.as_os_str(), OFlags::DIRECTORY).map_err(&failed)?;
    let encoder = zstd::Encoder::new(into, LEVEL).map_err(&failed)?;
    let mut builder = Builder::new(encoder);
    let mut room = Room::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inner) = waiting.pop() {
        let listed = descend(&root, &inner).map_err(at(&directory.join(&inner)))?;
        for file_name in names(&listed, &room).map_err(at(&directory.join(&inner)))? {
            let name = inner.join(&file_name);
            if name.components().count() > MAX_DEPTH {
                return Err(ArchiveError::TooDeep(name));
            }
            let size = append(&mut builder, &listed, &file_name, &name, &room)
                .map_err(at(&directory.join(&name)))?;
            match size {
                Appended::Size(size) => room.take(&name, size)?,
                Appended::Directory => {
                    room.take(&name, 0)?;
                    waiting.push(name);
                }
                Appended::TooLarge => return Err(ArchiveError::TooLarge(name)),
            }
        }
    }
    builder.into_inner().and_then(zstd::Encoder::finish).map(drop).map_err(&failed)
}

/// Opens a directory below `root`, one name at a time, so that no link on the way is followed.
fn descend(root: &OwnedFd, inner: &Path) -> io::Result<OwnedFd> {
    let mut directory = open(root, OsStr::new("."), OFlags::DIRECTORY)?;
    for name in inner {
        directory = open(&directory, name, OFlags::DIRECTORY)?;
    }
    Ok(directory)
}

/// Never waits, whatever kind of file has that name.
fn open(directory: &impl std::os::fd::AsFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// The names in a directory, in order; of too many, one more than there is room for.
fn names(directory: &OwnedFd, room: &Room) -> io::Result<Vec<OsString>> {
    let most = usize::try_from(room.entries).unwrap_or(usize::MAX).saturating_add(1);
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() == most {
            break;
        }
    }
    names.sort();
    Ok(names)
}

/// What was appended.
enum Appended {
    /// Something of this size.
    Size(u64),
    /// A directory, whose content is still to come.
    Directory,
    /// Nothing: there is no room for it.
    TooLarge,
}

fn append(
    builder: &mut Builder<impl Write>,
    directory: &OwnedFd,
    file_name: &OsStr,
    name: &Path,
    room: &Room,
) -> io::Result<Appended> {
    let mut stat = statat(directory, file_name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut header = Header::new_gnu();
    header.set_size(0);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(EntryType::Directory);
            describe(&mut header, &stat);
            builder.append_data(&mut header, name, io::empty())?;
            Ok(Appended::Directory)
        }
        FileType::Symlink => {
            header.set_entry_type(EntryType::Symlink);
            describe(&mut header, &stat);
            let target = readlinkat(directory, file_name, Vec::new())?.into_bytes();
            builder.append_link(&mut header, name, OsString::from_vec(target))?;
            Ok(Appended::Size(0))
        }
        FileType::RegularFile => {
            let file = fs::File::from(open(directory, file_name, OFlags::empty())?);
            stat = fstat(&file)?;
            if !FileType::from_raw_mode(stat.st_mode).is_file() {
                return Ok(Appended::Size(0));
            }
            // A sparse file takes no place here, and would take hours to read.
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            if size > room.bytes {
                return Ok(Appended::TooLarge);
            }
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            describe(&mut header, &stat);
            builder.append_data(&mut header, name, Exactly { file, left: size })?;
            Ok(Appended::Size(size))
        }
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Ok(Appended::Size(0)),
    }
}

fn describe(header: &mut Header, stat: &rustix::fs::Stat) {
    header.set_mode(stat.st_mode & 0o777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
}

/// Exactly as many bytes as the header says, even of a file that changes meanwhile.
struct Exactly {
    file: fs::File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            buffer[..most].fill(0);
            read = most;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Unpacks an archive into `directory`.
///
/// # Errors
/// Every [`ArchiveError`]. What was unpacked before stays.
pub fn unpack(archive: impl Read, directory: &Path) -> Result<(), ArchiveError> {
    let failed = at(directory);
    let decoder = zstd::Decoder::new(archive).map_err(&failed)?;
    let allowance = Rc::new(Cell::new(MAX_HEAD));
    let mut archive = Archive::new(Bounded {
        inner: decoder,
        left: MAX_UNPACKED + MAX_ENTRIES * 1024,
        allowance: Rc::clone(&allowance),
    });
    let mut placer = Placer::below(directory).map_err(&failed)?;
    let mut room = Room::new();
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        let path = entry.path().map_err(&failed)?.into_owned();
        room.take(&path, entry.size())?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Err(ArchiveError::Special(path));
        }
        if !Placer::is_below(&path) {
            return Err(ArchiveError::Escapes(path));
        }
        allowance.set(entry.size() + MAX_HEAD);
        place(&mut placer, &path, &mut entry).map_err(at(&path))?;
        allowance.set(MAX_HEAD);
    }
    placer.finish().map_err(|(path, source)| ArchiveError::Io { path, source })
}

fn place(placer: &mut Placer, path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let header = entry.header();
    let look = Look { mode: header.mode()?, mtime: header.mtime()? };
    let kind = header.entry_type();
    if kind.is_dir() {
        placer.directory(path, look)
    } else if kind.is_symlink() {
        let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
        placer.link(path, &target)
    } else {
        placer.file(path, look, entry)
    }
}

/// What comes out of a compressed archive: a megabyte can stand for all that there is.
struct Bounded<R> {
    inner: R,
    left: u64,
    /// How much may come now. Names are read into memory before anybody has seen them.
    allowance: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let less =
            |left: u64, what| left.checked_sub(read as u64).ok_or_else(|| io::Error::other(what));
        self.left = less(self.left, "the archive unpacks to more than 32 GiB")?;
        let allowance =
            less(self.allowance.get(), "a name in the archive is longer than any path")?;
        self.allowance.set(allowance);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_workspace_comes_back_as_it_was() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("source/.tool/deep")).unwrap();
        fs::write(from.path().join("source/main.tf"), "resource").unwrap();
        fs::write(from.path().join("source/.tool/deep/provider"), vec![7; 300_000]).unwrap();
        let provider = from.path().join("source/.tool/deep/provider");
        fs::set_permissions(&provider, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", from.path().join("source/link")).unwrap();
        let long = format!("source/{}", "x".repeat(180));
        fs::write(from.path().join(&long), "long").unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("source/main.tf")).unwrap(), b"resource");
        let provider = to.path().join("source/.tool/deep/provider");
        assert_eq!(fs::metadata(&provider).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(provider).unwrap().len(), 300_000);
        assert_eq!(fs::read_link(to.path().join("source/link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read(to.path().join(long)).unwrap(), b"long");
    }

    /// A run can leave any kind of file, and change it for another one while it is packed.
    #[test]
    fn what_is_no_file_is_neither_packed_nor_waited_for() {
        let from = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let pipe = from.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink(outside.path(), from.path().join("link")).unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        assert!(!to.path().join("pipe").exists());
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), outside.path());
        let root = open(&CWD, from.path().as_os_str(), OFlags::DIRECTORY).unwrap();
        descend(&root, Path::new("link")).unwrap_err();
        open(&root, OsStr::new("link"), OFlags::empty()).unwrap_err();
        open(&root, OsStr::new("pipe"), OFlags::empty()).unwrap();
    }

    #[test]
    fn a_file_that_only_claims_its_size_is_not_packed() {
        let from = tempfile::tempdir().unwrap();
        let sparse = fs::File::create(from.path().join("sparse")).unwrap();
        sparse.set_len(MAX_UNPACKED + 1).unwrap();
        let refused = pack(from.path(), io::sink()).unwrap_err();
        assert!(
            matches!(&refused, ArchiveError::TooLarge(path) if path == Path::new("sparse")),
            "{refused}"
        );
    }

    /// Names are read into memory: one of gigabytes, in an archive of kilobytes, would take it all.
    #[test]
    fn a_name_without_end_is_refused() {
        let to = tempfile::tempdir().unwrap();
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let size = 64 << 20;
            let archive = hostile(|builder| {
                let head = header(kind, b"././@LongLink", size);
                builder.append(&head, io::repeat(b'x').take(size)).unwrap();
                builder.append(&header(EntryType::Regular, b"x", 0), io::empty()).unwrap();
            });
            let refused = unpack(archive.as_slice(), to.path()).unwrap_err();
            let ArchiveError::Io { source, .. } = refused else { panic!("{refused}") };
            assert!(source.to_string().contains("longer than any path"), "{source}");
        }
    }

    /// What takes no place in the container takes none after it was packed and unpacked.
    #[test]
    fn a_sparse_file_stays_sparse() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let from = tempfile::tempdir().unwrap();
        let sparse = fs::File::create(from.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.write_all_at(b"middle", 500 << 20).unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        assert!(archive.len() < 1 << 20, "{}", archive.len());
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        let file = fs::File::open(to.path().join("sparse")).unwrap();
        let meta = file.metadata().unwrap();
        assert!(meta.len() == 1 << 30 && meta.blocks() * 512 < 1 << 20, "{meta:?}");
        let mut middle = [0; 8];
        file.read_exact_at(&mut middle, (500 << 20) - 1).unwrap();
        assert_eq!(&middle, b"\0middle\0");
    }

    /// The way to the workspace is longer on the host than in the container.
    #[test]
    fn a_path_longer_than_the_kernel_takes_comes_back() {
        let from = tempfile::tempdir().unwrap();
        let name = "n".repeat(200);
        let mut directory = open(&CWD, from.path().as_os_str(), OFlags::DIRECTORY).unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(&directory, &*name, Mode::RWXU).unwrap();
            directory = open(&directory, OsStr::new(&name), OFlags::DIRECTORY).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        drop(openat(&directory, "deep", flags, Mode::RUSR).unwrap());
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        let root = open(&CWD, to.path().as_os_str(), OFlags::DIRECTORY).unwrap();
        let inner: PathBuf = std::iter::repeat_n(name.as_str(), 30).collect();
        assert!(inner.as_os_str().len() > 4096);
        let found = descend(&root, &inner).unwrap();
        open(&found, OsStr::new("deep"), OFlags::empty()).unwrap();
        for directory in [from.path(), to.path()] {
            super::super::remove(&directory.join(&name)).unwrap();
        }
    }

    /// The apply could not lend it to its user, so the plan must not promise it.
    #[test]
    fn a_tree_that_is_too_deep_for_the_apply_is_refused_at_the_plan() {
        let from = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("d/".repeat(300))).unwrap();
        let refused = pack(from.path(), io::sink()).unwrap_err();
        assert!(matches!(refused, ArchiveError::TooDeep(_)), "{refused}");
    }

    /// A launcher that is not root could not write into it otherwise.
    #[test]
    fn a_directory_that_is_read_only_comes_back_with_its_content() {
        let from = tempfile::tempdir().unwrap();
        let closed = from.path().join("closed/inner");
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "x").unwrap();
        for directory in [&closed, &from.path().join("closed")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o555)).unwrap();
        }
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        let closed = to.path().join("closed");
        assert_eq!(fs::metadata(&closed).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(fs::read(closed.join("inner/file")).unwrap(), b"x");
        for directory in [from.path(), to.path()] {
            super::super::remove(&directory.join("closed")).unwrap();
        }
    }

    fn hostile(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        zstd::encode_all(builder.into_inner().unwrap().as_slice(), 1).unwrap()
    }

    fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    #[test]
    fn no_entry_leaves_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let to = outside.path().join("inside");
        fs::create_dir(&to).unwrap();
        for name in [&b"../evil"[..], b"a/../../evil"] {
            let archive = hostile(|builder| {
                builder.append(&header(EntryType::Regular, name, 4), &b"evil"[..]).unwrap();
            });
            let refused = unpack(archive.as_slice(), &to).unwrap_err();
            assert!(matches!(refused, ArchiveError::Escapes(_)), "{refused}");
        }
        let archive = hostile(|builder| {
            let mut link = header(EntryType::Symlink, b"out", 0);
            link.set_link_name("..").unwrap();
            link.set_cksum();
            builder.append(&link, io::empty()).unwrap();
            builder.append(&header(EntryType::Regular, b"out/evil", 4), &b"evil"[..]).unwrap();
        });
        unpack(archive.as_slice(), &to).unwrap_err();
        assert!(!outside.path().join("evil").exists());
    }

    #[test]
    fn devices_and_hard_links_are_refused() {
        let to = tempfile::tempdir().unwrap();
        for kind in [EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block] {
            let archive = hostile(|builder| {
                let mut entry = header(kind, b"x", 0);
                entry.set_link_name("/etc/passwd").unwrap();
                entry.set_cksum();
                builder.append(&entry, io::empty()).unwrap();
            });
            let refused = unpack(archive.as_slice(), to.path()).unwrap_err();
            assert!(matches!(refused, ArchiveError::Special(_)), "{refused}");
        }
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let to = tempfile::tempdir().unwrap();
        assert!(unpack(&b"not zstd"[..], to.path()).is_err());
        let cut = {
            let mut whole = hostile(|builder| {
                builder.append(&header(EntryType::Regular, b"x", 4), &b"evil"[..]).unwrap();
            });
            whole.truncate(20);
            whole
        };
        assert!(unpack(cut.as_slice(), to.path()).is_err());
    }
}

//! Archives: `tar` in `zstd`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

/// The most entries of an archive.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// The most bytes that an archive may unpack to: 32 GiB.
pub const MAX_UNPACKED: u64 = 32 << 30;
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
        "the archive has more than {MAX_ENTRIES} files or unpacks to more than 32 GiB: leave out what the run does not need"
    )]
    TooLarge,
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

/// Packs everything below `directory`: files, directories and symbolic links as such. Nothing else is
/// packed and no link is followed. Owners are not kept.
///
/// # Errors
/// [`ArchiveError::Io`] and [`ArchiveError::TooLarge`].
pub fn pack(directory: &Path, into: impl Write) -> Result<(), ArchiveError> {
    let failed = at(directory);
    let encoder = zstd::Encoder::new(into, LEVEL).map_err(&failed)?;
    let mut builder = Builder::new(encoder);
    let mut waiting = vec![PathBuf::new()];
    let mut entries = 0;
    while let Some(inner) = waiting.pop() {
        let mut names: Vec<_> = fs::read_dir(directory.join(&inner))
            .and_then(Iterator::collect::<io::Result<Vec<fs::DirEntry>>>)
            .map_err(at(&directory.join(&inner)))?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(ArchiveError::TooLarge);
            }
            let name = inner.join(entry.file_name());
            append(&mut builder, directory, &name, &mut waiting)
                .map_err(at(&directory.join(&name)))?;
        }
    }
    builder.into_inner().and_then(zstd::Encoder::finish).map(drop).map_err(&failed)
}

fn append(
    builder: &mut Builder<impl Write>,
    directory: &Path,
    name: &Path,
    waiting: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let path = directory.join(name);
    let meta = fs::symlink_metadata(&path)?;
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())?;
        waiting.push(name.to_owned());
    } else if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, fs::read_link(&path)?)?;
    } else if meta.is_file() {
        let file = fs::File::open(&path)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        builder.append_data(&mut header, name, Exactly { file, left: meta.len() })?;
    }
    Ok(())
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
    let mut archive =
        Archive::new(Bounded { inner: decoder, left: MAX_UNPACKED + MAX_ENTRIES * 1024 });
    archive.set_preserve_mtime(true);
    let mut entries = 0;
    let mut bytes = 0_u64;
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        let path = entry.path().map_err(&failed)?.into_owned();
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MAX_ENTRIES || bytes > MAX_UNPACKED {
            return Err(ArchiveError::TooLarge);
        }
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Err(ArchiveError::Special(path));
        }
        if !entry.unpack_in(directory).map_err(at(&path))? {
            return Err(ArchiveError::Escapes(path));
        }
    }
    Ok(())
}

struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("the archive unpacks to more than 32 GiB"))?;
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
        fs::create_dir_all(from.path().join("source/.terraform/deep")).unwrap();
        fs::write(from.path().join("source/main.tf"), "resource").unwrap();
        fs::write(from.path().join("source/.terraform/deep/provider"), vec![7; 300_000]).unwrap();
        let provider = from.path().join("source/.terraform/deep/provider");
        fs::set_permissions(&provider, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", from.path().join("source/link")).unwrap();
        let long = format!("source/{}", "x".repeat(180));
        fs::write(from.path().join(&long), "long").unwrap();
        let mut archive = Vec::new();
        pack(from.path(), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(archive.as_slice(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("source/main.tf")).unwrap(), b"resource");
        let provider = to.path().join("source/.terraform/deep/provider");
        assert_eq!(fs::metadata(&provider).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(provider).unwrap().len(), 300_000);
        assert_eq!(fs::read_link(to.path().join("source/link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read(to.path().join(long)).unwrap(), b"long");
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

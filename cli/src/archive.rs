//! Packs a source directory: `tar` in `zstd`, the same bytes for the same content.
//!
//! Entries are sorted by path and carry neither owner nor time, and of the mode only whether a file
//! is executable. Symbolic links are kept as links. `.git` and `.terraform` are left out at every
//! depth; `.gitignore` is not looked at, because a run may need what a repository must not keep.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use gantry_protocol::{Digest, Digester};
use rustix::fs::{Mode, OFlags};

use crate::failure::{Explain as _, Failure};

/// The most bytes that all files have together.
pub const MAX_BYTES: u64 = 1 << 30;
/// The most files, directories and links.
pub const MAX_ENTRIES: usize = 200_000;
const LEVEL: i32 = 3;
const LEFT_OUT: [&str; 2] = [".git", ".terraform"];

/// A packed source, in a file without a name.
#[derive(Debug)]
pub struct Packed {
    /// The archive, to be read from its start.
    pub file: File,
    /// The archive's length in bytes.
    pub size: u64,
    /// The archive's digest.
    pub sha256: Digest,
    /// How many entries it has.
    pub entries: usize,
}

/// Packs `source`.
pub fn pack(source: &Path) -> Result<Packed, Failure> {
    pack_within(source, MAX_BYTES, MAX_ENTRIES)
}

fn pack_within(source: &Path, max_bytes: u64, max_entries: usize) -> Result<Packed, Failure> {
    let found =
        Walk { root: source, entries: Vec::new(), bytes: 0, max_bytes, max_entries }.walk()?;
    let cannot = || "cannot write the archive to the directory for temporary files".to_owned();
    let file = tempfile::tempfile().or_say(cannot)?;
    let counted = Counted { file: BufWriter::new(file), digester: Digester::new() };
    let compressor = zstd::Encoder::new(counted, LEVEL).or_say(cannot)?;
    let mut archive = tar::Builder::new(compressor);
    for entry in &found {
        append(&mut archive, source, entry)?;
    }
    let counted = archive.into_inner().and_then(zstd::Encoder::finish).or_say(cannot)?;
    let (sha256, size) = (counted.digester.digest(), counted.digester.len());
    let mut file =
        counted.file.into_inner().map_err(io::IntoInnerError::into_error).or_say(cannot)?;
    file.rewind().or_say(cannot)?;
    Ok(Packed { file, size, sha256, entries: found.len() })
}

struct Entry {
    /// Relative to the source.
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Folder,
    Link(PathBuf),
    File { size: u64, is_executable: bool },
}

struct Walk<'a> {
    root: &'a Path,
    entries: Vec<Entry>,
    bytes: u64,
    max_bytes: u64,
    max_entries: usize,
}

impl Walk<'_> {
    fn walk(mut self) -> Result<Vec<Entry>, Failure> {
        let is_folder = fs::metadata(self.root).map(|it| it.is_dir());
        if !is_folder.or_say(|| format!("cannot read the source {}", self.root.display()))? {
            return Err(Failure::new(format!(
                "the source {} is not a directory",
                self.root.display()
            ))
            .next("give the directory with the source"));
        }
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for name in self.names(&folder)? {
                if LEFT_OUT.iter().any(|it| name == OsStr::new(it)) {
                    continue;
                }
                let path = folder.join(name);
                let kind = self.kind(&path)?;
                if matches!(kind, Kind::Folder) {
                    folders.push(path.clone());
                }
                self.entries.push(Entry { path, kind });
                self.check_limits()?;
            }
        }
        if !self.entries.iter().any(|entry| matches!(entry.kind, Kind::File { .. })) {
            return Err(Failure::new(format!("the source {} has no files", self.root.display()))
                .next("give the directory that holds the stack's configuration"));
        }
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.entries)
    }

    fn names(&self, folder: &Path) -> Result<Vec<std::ffi::OsString>, Failure> {
        let path = self.root.join(folder);
        let cannot = || format!("cannot read the directory {}", path.display());
        fs::read_dir(&path)
            .or_say(cannot)?
            .map(|entry| Ok(entry.or_say(cannot)?.file_name()))
            .collect()
    }

    fn kind(&mut self, path: &Path) -> Result<Kind, Failure> {
        let full = self.root.join(path);
        let cannot = || format!("cannot read {}", full.display());
        let about = fs::symlink_metadata(&full).or_say(cannot)?;
        if about.is_dir() {
            Ok(Kind::Folder)
        } else if about.is_symlink() {
            Ok(Kind::Link(fs::read_link(&full).or_say(cannot)?))
        } else if about.is_file() {
            self.bytes = self.bytes.saturating_add(about.len());
            Ok(Kind::File { size: about.len(), is_executable: is_executable(&about) })
        } else {
            Err(Failure::new(format!("{} is neither file, directory nor link", full.display()))
                .next("move it out of the source"))
        }
    }

    fn check_limits(&self) -> Result<(), Failure> {
        let (limit, unit) = if self.entries.len() > self.max_entries {
            (self.max_entries as u64, "files, directories and links")
        } else if self.bytes > self.max_bytes {
            (self.max_bytes, "bytes")
        } else {
            return Ok(());
        };
        let source = self.root.display();
        Err(Failure::new(format!("the source {source} has more than {limit} {unit}"))
            .next("give a directory that holds only what the stack needs"))
    }
}

fn is_executable(about: &Metadata) -> bool {
    about.permissions().mode() & 0o100 != 0
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    root: &Path,
    entry: &Entry,
) -> Result<(), Failure> {
    let full = root.join(&entry.path);
    let cannot = || format!("cannot pack {}", full.display());
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match &entry.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            archive.append_data(&mut header, &entry.path, io::empty()).or_say(cannot)
        }
        Kind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, &entry.path, target).or_say(cannot)
        }
        Kind::File { size, is_executable } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *is_executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            let mut content = Exactly { file: open_file(&full).or_say(cannot)?, left: *size };
            archive.append_data(&mut header, &entry.path, &mut content).or_say(cannot)?;
            content.check_end().or_say(cannot)
        }
    }
}

/// Opens what was a regular file a moment ago: a link in its place is not followed, and a pipe does
/// not make it wait.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// A file that must have the length that the archive says.
struct Exactly {
    file: File,
    left: u64,
}

impl Exactly {
    fn changed() -> io::Error {
        io::Error::other(
            "it changed while it was read: try again when nothing writes to the source",
        )
    }

    fn check_end(&mut self) -> io::Result<()> {
        match self.file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(Self::changed()),
        }
    }
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(Self::changed());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Counts and digests what is written.
struct Counted {
    file: BufWriter<File>,
    digester: Digester,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn source() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("modules/net")).unwrap();
        fs::create_dir_all(at(".git/objects")).unwrap();
        fs::create_dir_all(at("modules/net/.terraform")).unwrap();
        fs::write(at(".gitignore"), "*.tfvars\n").unwrap();
        fs::write(at("main.tf"), "terraform {}\n").unwrap();
        fs::write(at("prod.tfvars"), "a = 1\n").unwrap();
        fs::write(at("modules/net/main.tf"), "").unwrap();
        fs::write(at("modules/net/.terraform/provider"), "large").unwrap();
        fs::write(at(".git/HEAD"), "ref").unwrap();
        fs::write(at("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(at("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("main.tf", at("link.tf")).unwrap();
        folder
    }

    fn listed(packed: &Packed) -> Vec<(String, u32, Option<String>)> {
        let mut archive = tar::Archive::new(zstd::Decoder::new(&packed.file).unwrap());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|path| text(&path));
                let path = text(&entry.path().unwrap());
                (path.trim_end_matches('/').to_owned(), entry.header().mode().unwrap(), link)
            })
            .collect()
    }

    #[test]
    fn files_and_links_are_packed_and_repositories_left_out() {
        let folder = source();
        let packed = pack(folder.path()).unwrap();
        let entry = |path: &str, mode| (path.to_owned(), mode, None);
        let expected = [
            entry(".gitignore", 0o644),
            ("link.tf".to_owned(), 0o777, Some("main.tf".to_owned())),
            entry("main.tf", 0o644),
            entry("modules", 0o755),
            entry("modules/net", 0o755),
            entry("modules/net/main.tf", 0o644),
            entry("prod.tfvars", 0o644),
            entry("run.sh", 0o755),
        ];
        assert_eq!(listed(&packed), expected);
        assert_eq!(packed.entries, expected.len());
        assert_eq!(packed.size, packed.file.metadata().unwrap().len());
    }

    #[test]
    fn the_same_content_packs_to_the_same_bytes() {
        let (one, two) = (source(), source());
        assert_eq!(pack(one.path()).unwrap().sha256, pack(two.path()).unwrap().sha256);
        fs::write(two.path().join("main.tf"), "terraform { }\n").unwrap();
        assert_ne!(pack(one.path()).unwrap().sha256, pack(two.path()).unwrap().sha256);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let folder = source();
        let many = pack_within(folder.path(), 1000, 3).unwrap_err().to_string();
        assert!(many.contains("more than 3 files"), "{many}");
        let large = pack_within(folder.path(), 20, 100).unwrap_err().to_string();
        assert!(large.contains("more than 20 bytes"), "{large}");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(pack(folder.path()).unwrap_err().to_string().contains("has no files"));
        assert!(pack(&folder.path().join("none")).is_err());
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(pack(folder.path()).unwrap_err().to_string().contains("neither file"));
    }

    #[test]
    fn long_paths_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let deep = "a".repeat(90);
        let path = folder.path().join(&deep).join(&deep).join(&deep);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("main.tf"), "x").unwrap();
        let packed = pack(folder.path()).unwrap();
        let last = listed(&packed).pop().unwrap().0;
        assert_eq!(last, format!("{deep}/{deep}/{deep}/main.tf"));
    }
}

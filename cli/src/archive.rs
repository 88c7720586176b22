//! Packs a source directory: `tar` in `zstd`, the same bytes for the same content.
//!
//! Entries are sorted by path and carry neither owner nor time, and of the mode only whether a file
//! is executable. Symbolic links are kept as links. `.git` and `.terraform` are left out at every
//! depth, and what [`ignored`] says. States and private keys are refused.

mod ignored;
mod sensitive;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_model::MAX_SOURCE;
use rustix::fs::{Mode, OFlags};

use self::ignored::{Ignored, Level};
use crate::failure::{Explain as _, Failure};

/// How many paths a complaint names.
const NAMED: usize = 10;
/// The most files, directories and links.
pub const MAX_ENTRIES: usize = 200_000;
const LEVEL: i32 = 3;
const LEFT_OUT: [&str; 2] = [".git", ".terraform"];

/// What to send beside what is always sent.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Also what `.gitignore` leaves out.
    pub ignored: bool,
    /// Also states and private keys.
    pub sensitive: bool,
}

/// What a source has that is sent.
#[derive(Debug)]
pub struct Listing {
    root: PathBuf,
    entries: Vec<Entry>,
    /// How many bytes its files have together.
    pub bytes: u64,
    /// How many files and whole directories are left out.
    pub left_out: usize,
}

impl Listing {
    /// Its files and links, by path, and their bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::Folder => None,
            Kind::Link(_) => Some((entry.path.as_path(), 0)),
            Kind::File { size, .. } => Some((entry.path.as_path(), *size)),
        })
    }
}

/// A packed source, in a file without a name.
#[derive(Debug)]
pub struct Packed {
    /// The archive, to be read from its start.
    pub file: File,
    /// The archive's length in bytes.
    pub size: u64,
}

/// Looks what of `source` is to be sent.
pub fn list(source: &Path, wanted: Wanted) -> Result<Listing, Failure> {
    list_within(source, wanted, MAX_SOURCE, MAX_ENTRIES)
}

fn list_within(
    source: &Path,
    wanted: Wanted,
    max_bytes: u64,
    max_entries: usize,
) -> Result<Listing, Failure> {
    let is_folder = fs::metadata(source).map(|it| it.is_dir());
    if !is_folder.or_say(|| format!("cannot read the source {}", source.display()))? {
        let what = format!("the source {} is not a directory", source.display());
        return Err(Failure::new(what).next("give the directory with the source"));
    }
    let ignored = Ignored::of(source, !wanted.ignored)?;
    let walk = Walk {
        root: source,
        ignored,
        entries: Vec::new(),
        largest: None,
        bytes: 0,
        left_out: 0,
        max_bytes,
        max_entries,
    };
    let listing = walk.walk()?;
    if !wanted.sensitive {
        refuse_sensitive(&listing)?;
    }
    Ok(listing)
}

/// Packs what was listed.
pub fn pack(listing: &Listing) -> Result<Packed, Failure> {
    let (source, found) = (listing.root.as_path(), &listing.entries);
    let cannot = || "cannot write the archive to the directory for temporary files".to_owned();
    let file = tempfile::tempfile().or_say(cannot)?;
    let compressor = zstd::Encoder::new(BufWriter::new(file), LEVEL).or_say(cannot)?;
    let mut archive = tar::Builder::new(compressor);
    for entry in found {
        append(&mut archive, source, entry)?;
    }
    let written = archive.into_inner().and_then(zstd::Encoder::finish).or_say(cannot)?;
    let mut file = written.into_inner().map_err(io::IntoInnerError::into_error).or_say(cannot)?;
    let size = file.stream_position().or_say(cannot)?;
    file.rewind().or_say(cannot)?;
    Ok(Packed { file, size })
}

/// Refuses what a source should not bring.
fn refuse_sensitive(listing: &Listing) -> Result<(), Failure> {
    let mut found = Vec::new();
    for entry in &listing.entries {
        let Kind::File { size, .. } = entry.kind else { continue };
        let full = listing.root.join(&entry.path);
        let mut kind = sensitive::by_name(&entry.path);
        if kind.is_none() {
            let cannot = || format!("cannot read {}", full.display());
            kind = sensitive::by_content(open_file(&full).or_say(cannot)?, size).or_say(cannot)?;
        }
        found.extend(kind.map(|kind| format!("{} ({})", entry.path.display(), kind.noun())));
    }
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Failure::usage(format!(
        "the source has what should not be sent: {}{more}",
        found.join(", ")
    ))
    .next("move it away, name it in .terraformignore, or give --allow-sensitive to send it all the same"))
}

#[derive(Debug)]
struct Entry {
    /// Relative to the source.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder,
    Link(PathBuf),
    File { size: u64, is_executable: bool },
}

struct Walk<'a> {
    root: &'a Path,
    ignored: Ignored,
    entries: Vec<Entry>,
    largest: Option<(u64, PathBuf)>,
    bytes: u64,
    left_out: usize,
    max_bytes: u64,
    max_entries: usize,
}

/// A directory that is still to be looked into.
struct Waiting {
    path: PathBuf,
    level: Option<Rc<Level>>,
    /// Whether it is left out, but for exceptions.
    is_out: bool,
}

impl Walk<'_> {
    fn walk(mut self) -> Result<Listing, Failure> {
        let top = Waiting { path: PathBuf::new(), level: self.ignored.top()?, is_out: false };
        let mut waiting = vec![top];
        while let Some(folder) = waiting.pop() {
            for name in self.names(&folder.path)? {
                if LEFT_OUT.iter().any(|it| name == OsStr::new(it)) {
                    continue;
                }
                let path = folder.path.join(name);
                let kind = self.kind(&path)?;
                let is_folder = matches!(kind, Some(Kind::Folder));
                let level = folder.level.as_ref();
                let is_out = self.ignored.leaves_out(&path, is_folder, level, folder.is_out);
                if is_folder && (!is_out || self.ignored.has_exceptions()) {
                    let level = self.ignored.enter(&path, folder.level.clone())?;
                    waiting.push(Waiting { path: path.clone(), level, is_out });
                }
                if is_out {
                    self.left_out += usize::from(!folder.is_out);
                } else {
                    self.add(path, kind)?;
                }
            }
        }
        if !self.entries.iter().any(|entry| matches!(entry.kind, Kind::File { .. })) {
            let none = if self.left_out > 0 {
                format!("{} has no files that are sent", self.root.display())
            } else {
                format!("the source {} has no files", self.root.display())
            };
            return Err(Failure::new(none).next(
                "give the directory that holds the stack's configuration, and look at .gitignore and .terraformignore",
            ));
        }
        self.add_folders_above();
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        let Self { root, entries, bytes, left_out, .. } = self;
        Ok(Listing { root: root.to_owned(), entries, bytes, left_out })
    }

    fn add(&mut self, path: PathBuf, kind: Option<Kind>) -> Result<(), Failure> {
        let Some(kind) = kind else {
            let full = self.root.join(path);
            return Err(Failure::new(format!(
                "{} is neither file, directory nor link",
                full.display()
            ))
            .next("move it out of the source, or name it in .terraformignore"));
        };
        if let Kind::File { size, .. } = kind {
            self.bytes = self.bytes.saturating_add(size);
            if self.largest.as_ref().is_none_or(|(largest, _)| *largest < size) {
                self.largest = Some((size, path.clone()));
            }
        }
        self.entries.push(Entry { path, kind });
        self.check_limits()
    }

    /// A directory that is left out has to be there all the same when something in it is sent.
    fn add_folders_above(&mut self) {
        let is_folder = |entry: &&Entry| matches!(entry.kind, Kind::Folder);
        let there: BTreeSet<_> =
            self.entries.iter().filter(is_folder).map(|entry| entry.path.clone()).collect();
        let mut missing = BTreeSet::new();
        for entry in &self.entries {
            let above = entry.path.ancestors().skip(1);
            let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !there.contains(*path);
            missing.extend(above.filter(is_missing).map(Path::to_owned));
        }
        self.entries.extend(missing.into_iter().map(|path| Entry { path, kind: Kind::Folder }));
    }

    fn names(&self, folder: &Path) -> Result<Vec<std::ffi::OsString>, Failure> {
        let path = self.root.join(folder);
        let cannot = || format!("cannot read the directory {}", path.display());
        fs::read_dir(&path)
            .or_say(cannot)?
            .map(|entry| Ok(entry.or_say(cannot)?.file_name()))
            .collect()
    }

    /// None for what cannot be packed.
    fn kind(&self, path: &Path) -> Result<Option<Kind>, Failure> {
        let full = self.root.join(path);
        let cannot = || format!("cannot read {}", full.display());
        let about = fs::symlink_metadata(&full).or_say(cannot)?;
        Ok(if about.is_dir() {
            Some(Kind::Folder)
        } else if about.is_symlink() {
            Some(Kind::Link(fs::read_link(&full).or_say(cannot)?))
        } else if about.is_file() {
            Some(Kind::File { size: about.len(), is_executable: is_executable(&about) })
        } else {
            None
        })
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
            .next(self.next()))
    }
}

impl Walk<'_> {
    fn next(&self) -> String {
        let largest = self.largest.as_ref().map_or_else(String::new, |(size, path)| {
            format!(": the largest file is {}, {size} bytes", path.display())
        });
        format!(
            "give a directory that holds only what the stack needs, or name the rest in .terraformignore{largest}"
        )
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
        fs::write(at(".gitignore"), "*.auto.tfvars\n").unwrap();
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

    const PLAIN: Wanted = Wanted { ignored: false, sensitive: false };

    fn packed(source: &Path) -> Packed {
        pack(&list(source, PLAIN).unwrap()).unwrap()
    }

    fn bytes(source: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        packed(source).file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn sent(source: &Path, wanted: Wanted) -> Vec<String> {
        let listing = list(source, wanted).unwrap();
        listing.files().map(|(path, _)| path.to_str().unwrap().to_owned()).collect()
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
        let packed = packed(folder.path());
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
        assert_eq!(packed.size, packed.file.metadata().unwrap().len());
    }

    #[test]
    fn the_same_content_packs_to_the_same_bytes() {
        let (one, two) = (source(), source());
        assert!(bytes(one.path()) == bytes(two.path()));
        fs::write(two.path().join("main.tf"), "terraform { }\n").unwrap();
        assert!(bytes(one.path()) != bytes(two.path()));
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let folder = source();
        let many = list_within(folder.path(), PLAIN, 1000, 3).unwrap_err().to_string();
        assert!(many.contains("more than 3 files"), "{many}");
        let large = list_within(folder.path(), PLAIN, 20, 100).unwrap_err().to_string();
        assert!(large.contains("more than 20 bytes"), "{large}");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(list(folder.path(), PLAIN).unwrap_err().to_string().contains("has no files"));
        assert!(list(&folder.path().join("none"), PLAIN).is_err());
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(list(folder.path(), PLAIN).unwrap_err().to_string().contains("neither file"));
    }

    #[test]
    fn what_git_and_terraform_ignore_is_left_out() {
        let repository = tempfile::tempdir().unwrap();
        let at = |path: &str| repository.path().join(path);
        fs::create_dir_all(at(".git/info")).unwrap();
        fs::create_dir_all(at("infra/build/deep")).unwrap();
        fs::create_dir_all(at("infra/modules/net")).unwrap();
        fs::write(at(".git/info/exclude"), "excluded.txt\n").unwrap();
        fs::write(at(".gitignore"), "*.tfvars\nbuild/\n!keep.tfvars\n").unwrap();
        fs::write(at("infra/modules/.gitignore"), "/local.tf\n").unwrap();
        for file in [
            "main.tf",
            "dev.tfvars",
            "keep.tfvars",
            "excluded.txt",
            "build/a",
            "build/deep/b",
            "modules/local.tf",
            "modules/net/local.tf",
            "modules/net/docs.md",
        ] {
            fs::write(at("infra").join(file), "x").unwrap();
        }
        let infra = at("infra");
        let all = Wanted { ignored: true, sensitive: false };
        let kept = [
            "keep.tfvars",
            "main.tf",
            "modules/.gitignore",
            "modules/net/docs.md",
            "modules/net/local.tf",
        ];
        assert_eq!(sent(&infra, PLAIN), kept);
        assert_eq!(list(&infra, PLAIN).unwrap().left_out, 4);
        assert_eq!(sent(&infra, all).len(), 10);
        fs::write(infra.join(".terraformignore"), "*.md\n!dev.tfvars\n!build/deep/\n").unwrap();
        let both = [
            ".terraformignore",
            "build/deep/b",
            "dev.tfvars",
            "keep.tfvars",
            "main.tf",
            "modules/.gitignore",
            "modules/net/local.tf",
        ];
        assert_eq!(sent(&infra, PLAIN), both);
        let packed = packed(&infra);
        assert!(listed(&packed).iter().any(|(path, ..)| path == "build/deep"));
    }

    #[test]
    fn a_source_of_its_own_ignores_by_no_other_directory() {
        let above = tempfile::tempdir().unwrap();
        let source = above.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(above.path().join(".gitignore"), "*\n").unwrap();
        fs::write(source.join("main.tf"), "").unwrap();
        assert_eq!(sent(&source, PLAIN), ["main.tf"]);
    }

    #[test]
    fn states_and_private_keys_are_not_sent_by_mistake() {
        let folder = source();
        let at = |path: &str| folder.path().join(path);
        fs::write(at("terraform.tfstate"), "{}").unwrap();
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
        fs::write(at("modules/pool.key"), format!("-----BEGIN PRIVATE KEY-----\n{body}\n"))
            .unwrap();
        let refused = list(folder.path(), PLAIN).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains(
                "modules/pool.key (a private key), terraform.tfstate (a Terraform state)"
            ),
            "{said}"
        );
        assert!(refused.next_step().unwrap().contains("--allow-sensitive"));
        let all = Wanted { ignored: false, sensitive: true };
        assert!(sent(folder.path(), all).contains(&"terraform.tfstate".to_owned()));
        fs::write(at(".terraformignore"), "*.tfstate\npool.key\n").unwrap();
        assert!(!sent(folder.path(), PLAIN).contains(&"terraform.tfstate".to_owned()));
    }

    #[test]
    fn long_paths_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let deep = "a".repeat(90);
        let path = folder.path().join(&deep).join(&deep).join(&deep);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("main.tf"), "x").unwrap();
        let packed = packed(folder.path());
        let last = listed(&packed).pop().unwrap().0;
        assert_eq!(last, format!("{deep}/{deep}/{deep}/main.tf"));
    }
}

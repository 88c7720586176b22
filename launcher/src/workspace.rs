//! The directories of an attempt, and what comes into its workspace and leaves it.
//!
//! Source and workspace are archives from outside: they are bounded, cannot leave their directory, and
//! are checked before anything is unpacked. A workspace between the two stages of a run is sealed to
//! the pool and signed with the pool's key.

mod archive;
mod handover;
mod place;
mod removal;

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use gantry_model::{Attempt, StackId};
use gantry_protocol::spec::SealedWorkspace;
use gantry_protocol::{
    Digest, Header, Kind, OpenError, PoolKey, PublicKey, Recipient, SealError, Signature, Statement,
};

pub use archive::{ArchiveError, pack, unpack};
pub use handover::{Handover, PlannedIn};
pub use removal::remove;

/// The largest sealed workspace: 16 GiB.
pub const MAX_SEALED: u64 = 16 << 30;
/// Beside the spec: what was derived for the attempt once.
const DISK_LIMIT: &str = "disk-limit";

/// Where an attempt keeps its files on the host: a directory that only the launcher's user enters.
#[derive(Debug, Clone)]
pub struct Directories {
    /// All of it.
    pub root: PathBuf,
    /// The sealed spec, as it was offered.
    pub spec: PathBuf,
    /// The spool.
    pub spool: PathBuf,
    /// What the container sees at `/mnt/workspace`.
    pub workspace: PathBuf,
    /// The source within it.
    pub source: PathBuf,
    /// Where it goes when the attempt left a state that nobody else has.
    pub kept: PathBuf,
    /// On a tmpfs: the order and the state, until the worker binary has read them.
    pub order: PathBuf,
}

impl Directories {
    /// Those of an attempt.
    #[must_use]
    pub fn of(attempt: Attempt, state: &Path, secrets: &Path) -> Self {
        let root = state.join("runs").join(attempt.name());
        let workspace = root.join("workspace");
        Self {
            spec: root.join("spec.age"),
            spool: root.join("spool"),
            source: workspace.join("source"),
            workspace,
            order: secrets.join(attempt.name()).join("in"),
            kept: state.join("kept").join(attempt.name()),
            root,
        }
    }

    /// Makes the root, and keeps the sealed spec in it; durable when this returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep_spec(&self, spec: &[u8]) -> io::Result<()> {
        make(&self.root, 0o700)?;
        self.put(&self.spec, spec)?;
        self.root.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    }

    /// Keeps beside the spec how many bytes the run may have on the disks; durable when this returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep_disk_limit(&self, bytes: u64) -> io::Result<()> {
        self.put(&self.root.join(DISK_LIMIT), bytes.to_string().as_bytes())
    }

    /// What was kept of that; none if nothing was, or it cannot be read.
    #[must_use]
    pub fn disk_limit(&self) -> Option<u64> {
        fs::read_to_string(self.root.join(DISK_LIMIT)).ok()?.parse().ok()
    }

    /// Puts a file into the root, whole or not at all.
    fn put(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = private().truncate(true).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(&self.root)?.sync_all()
    }

    /// Makes an empty workspace, whatever an earlier try left there.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn empty_workspace(&self) -> io::Result<()> {
        remove(&self.workspace)?;
        make_below(&self.workspace, 0o755)?;
        make_below(&self.source, 0o755)
    }

    /// Makes the spool.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn make_spool(&self) -> io::Result<()> {
        make_shared(&self.spool)
    }

    /// Makes the directory of the order, in one that nobody but the launcher's user enters. The worker binary
    /// takes it over: what lies directly where everybody makes directories could then not be removed.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else has made it.
    pub fn make_order(&self) -> io::Result<()> {
        make_own(self.secrets(), 0o700)?;
        make_shared(&self.order)
    }

    /// What of the attempt lies in memory.
    #[must_use]
    pub fn secrets(&self) -> &Path {
        self.order.parent().unwrap_or(&self.order)
    }

    /// Puts all of it where nothing removes it. Asked again, it goes on.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&self) -> io::Result<()> {
        let above = self.kept.parent().unwrap_or(&self.kept);
        make(above, 0o700)?;
        Handover::remove(self)?;
        // The root is ours. What is in it may be another user's, and only its owner moves a directory elsewhere.
        match fs::rename(&self.root, &self.kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::File::open(above)?.sync_all()
    }

    /// Removes everything of the attempt.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        remove(self.secrets())?;
        // It is ours, and has secrets in the clear: it goes even where files of another user stay.
        Handover::remove(self)?;
        remove(&self.root)
    }
}

/// The groups through which this process reaches what the worker binary makes; none for root, who needs none.
#[must_use]
pub fn own_groups() -> Vec<u32> {
    use rustix::process::{getegid, geteuid, getgroups};
    if geteuid().is_root() {
        return Vec::new();
    }
    let further = getgroups().unwrap_or_default();
    let mut groups: Vec<u32> = Vec::new();
    for group in std::iter::once(getegid()).chain(further).map(rustix::process::Gid::as_raw) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// Makes a directory with exactly this mode, or gives one that is there this mode.
///
/// # Errors
/// When the disk does not take it.
pub fn make(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a directory with exactly this mode in one that is there. A thread that unpacks is not ended with its
/// stage: it must not bring back what was removed meanwhile.
fn make_below(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a directory that the worker binary reaches through its group. One that is there is root's by now, if a
/// container has begun to read, and stays as it is.
fn make_shared(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let is_ours = fs::metadata(path)?.uid() == rustix::process::geteuid().as_raw();
    if is_ours { fs::set_permissions(path, fs::Permissions::from_mode(0o770)) } else { Ok(()) }
}

/// Makes a directory with exactly this mode where others make theirs too, as in `/dev/shm`. One that is
/// there must be ours: its name can be guessed, and whoever made it could change what is put into it.
///
/// # Errors
/// When it is somebody else's or a link, or cannot be made.
pub fn make_own(path: &Path, mode: u32) -> io::Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, fchmod, fstat, openat};
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    if fstat(&directory)?.st_uid != rustix::process::geteuid().as_raw() {
        let what = format!("{} belongs to another user: remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(fchmod(&directory, Mode::from_raw_mode(mode))?)
}

fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// A new file without a name in `directory`, for something that passes through.
///
/// # Errors
/// When the disk does not take it.
pub fn passing_file(directory: &Path) -> io::Result<fs::File> {
    let path = directory.join("passing");
    let file = private().truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Why a workspace cannot be handed on or taken over.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The file on this host cannot be used.
    #[error("cannot use the workspace's directory on this host: check its disk")]
    Io(#[from] io::Error),
    /// What is in it cannot be packed or unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It cannot be sealed.
    #[error("cannot seal the workspace")]
    Seal(#[from] SealError),
    /// It cannot be opened.
    #[error("the workspace cannot be opened with this pool's key: {0}")]
    Open(#[from] OpenError),
    /// The source is no age file.
    #[error("the source is not sealed as it should be: upload it again with `gantry stack upload`")]
    NotSealed,
    /// The source cannot be opened.
    #[error(
        "the source cannot be opened with this pool's key: {0}; if the stack or its pool got another key, upload the source again, or set GANTRY_FORMER_POOL_KEYS"
    )]
    Source(#[source] OpenError),
    /// It is not what this pool's launcher stored for this run.
    #[error(
        "the stored workspace is not the one that this pool signed for this run ({0}): it was altered, truncated or replaced; trigger a new run"
    )]
    NotOurs(&'static str),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] gantry_protocol::CryptoError),
}

/// A workspace that is sealed and signed, on its way out.
#[derive(Debug)]
pub struct Leaving {
    /// The age header: goes in front of the payload.
    pub header: Header,
    /// The payload, from its start.
    pub payload: fs::File,
    /// What was signed.
    pub statement: Statement,
    /// The signature.
    pub signature: Signature,
}

/// Packs, seals and signs an attempt's workspace. Takes as long as its files need.
///
/// # Errors
/// Any [`WorkspaceError`].
pub fn seal(
    directories: &Directories,
    stack: &StackId,
    attempt: Attempt,
    key: &PoolKey,
) -> Result<Leaving, WorkspaceError> {
    let mut payload = passing_file(&directories.root)?;
    let recipient = Recipient::new(key.public().clone())?;
    let bounded = AtMost { inner: BufWriter::new(&mut payload), left: MAX_SEALED };
    let mut sealer = gantry_protocol::seal(&[recipient], bounded)?;
    pack(&directories.workspace, &mut sealer)?;
    let sealed = sealer.finish()?;
    payload.rewind()?;
    let statement = Statement {
        kind: Kind::Workspace,
        stack: stack.clone(),
        run: attempt.run,
        epoch: attempt.epoch,
        serial: 0,
        predecessor: None,
        payload_sha256: sealed.payload_sha256,
        payload_len: sealed.payload_len,
    };
    let signature = key.sign_statement(&statement)?;
    Ok(Leaving { header: sealed.header, payload, statement, signature })
}

/// Takes no more than fits: who opens the workspace would refuse a larger one.
struct AtMost<W> {
    inner: W,
    left: u64,
}

impl<W: io::Write> io::Write for AtMost<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(io::Error::other(
                "sealed, it would take more than 16 GiB: leave out what the apply does not need",
            ));
        };
        self.left = left;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Checks a stored workspace, opens it and unpacks it into the attempt's directories.
///
/// `file` is the whole age file, as it came from the store.
///
/// # Errors
/// Any [`WorkspaceError`]; nothing is unpacked unless hash and signature fit.
pub fn open(
    directories: &Directories,
    file: impl Read + Seek,
    sealed: &SealedWorkspace,
    stack: &StackId,
    attempt: Attempt,
    keys: &[&PoolKey],
) -> Result<(), WorkspaceError> {
    let not_ours = WorkspaceError::NotOurs;
    let statement = Statement {
        kind: Kind::Workspace,
        stack: stack.clone(),
        run: attempt.run,
        epoch: gantry_model::Epoch(sealed.epoch),
        serial: 0,
        predecessor: None,
        payload_sha256: sealed
            .payload_sha256
            .parse()
            .map_err(|_| not_ours("its hash is not valid"))?,
        payload_len: sealed.payload_size,
    };
    check(&statement, &sealed.signature, keys).map_err(not_ours)?;
    let (header, mut payload) =
        gantry_protocol::split(BufReader::new(file)).map_err(|_| not_ours("it has no header"))?;
    let start = payload.stream_position()?;
    let (digest, length) = Digest::of_reader(&mut payload)?;
    if (digest, length) != (statement.payload_sha256, statement.payload_len) {
        return Err(not_ours("its content is different"));
    }
    payload.seek(io::SeekFrom::Start(start))?;
    directories.empty_workspace()?;
    let plain = gantry_protocol::open(keys, &header, payload)?;
    unpack(plain, &directories.workspace)?;
    Ok(Handover::take_out(directories)?)
}

/// Opens a source and unpacks it into the attempt's directories.
///
/// `file` is the whole age file, whose hash was checked against what the control plane named.
///
/// # Errors
/// Any [`WorkspaceError`].
pub fn open_source(
    directories: &Directories,
    file: impl Read,
    keys: &[&PoolKey],
) -> Result<(), WorkspaceError> {
    let (header, payload) =
        gantry_protocol::split(BufReader::new(file)).map_err(|_| WorkspaceError::NotSealed)?;
    directories.empty_workspace()?;
    let plain = gantry_protocol::open(keys, &header, payload).map_err(WorkspaceError::Source)?;
    unpack(plain, &directories.source)?;
    Ok(())
}

/// Whether one of `keys` signed the statement; says why not.
pub(crate) fn check(
    statement: &Statement,
    signature: &str,
    keys: &[&PoolKey],
) -> Result<(), &'static str> {
    let signature: Signature = signature.parse().map_err(|_| "its signature is not valid")?;
    let fits = |key: &PublicKey| key.verify_statement(statement, &signature).is_ok();
    if keys.iter().any(|key| fits(key.public())) {
        Ok(())
    } else {
        Err("its signature does not fit")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use gantry_model::{Epoch, RunId, Stage};
    use ulid::Ulid;

    use super::*;

    fn attempt() -> Attempt {
        Attempt {
            run: RunId::from_ulid(Ulid::from_parts(1, 1)),
            stage: Stage::Write,
            epoch: Epoch(1),
        }
    }

    fn directories(host: &Path) -> Directories {
        fs::create_dir(host.join("secrets")).unwrap();
        let directories = Directories::of(attempt(), &host.join("state"), &host.join("secrets"));
        directories.keep_spec(b"sealed").unwrap();
        directories
    }

    fn sealed(content: &Path, key: &PoolKey) -> fs::File {
        let mut payload = tempfile::tempfile().unwrap();
        let recipient = Recipient::new(key.public().clone()).unwrap();
        let mut plain = Vec::new();
        pack(content, &mut plain).unwrap();
        let mut body = Vec::new();
        let mut sealer = gantry_protocol::seal(&[recipient], &mut body).unwrap();
        sealer.write_all(&plain).unwrap();
        let sealed = sealer.finish().unwrap();
        payload.write_all(sealed.header.as_bytes()).unwrap();
        payload.write_all(&body).unwrap();
        payload.rewind().unwrap();
        payload
    }

    /// The thread that unpacks outlives a stage that is dropped.
    #[test]
    fn what_is_unpacked_after_its_attempt_was_removed_comes_to_nothing() {
        let host = tempfile::tempdir().unwrap();
        let directories = directories(host.path());
        let content = tempfile::tempdir().unwrap();
        fs::write(content.path().join("main.tf"), "secret").unwrap();
        let key = PoolKey::generate(2048).unwrap();
        open_source(&directories, sealed(content.path(), &key), &[&key]).unwrap();
        assert!(directories.source.join("main.tf").exists());
        directories.remove().unwrap();
        open_source(&directories, sealed(content.path(), &key), &[&key]).unwrap_err();
        assert!(!directories.root.exists());
    }

    /// The worker binary may be killed before it gives back what it lent to the user of the phases.
    #[test]
    fn what_is_kept_moves_as_a_whole_whoever_owns_what_is_in_it() {
        let host = tempfile::tempdir().unwrap();
        let directories = directories(host.path());
        directories.empty_workspace().unwrap();
        directories.make_spool().unwrap();
        directories.make_order().unwrap();
        fs::write(directories.source.join("left.state"), "{}").unwrap();
        fs::write(directories.spool.join("state-1"), "{}").unwrap();
        // Nobody but root moves a directory that is closed like this by itself, as if it were another's.
        fs::set_permissions(&directories.workspace, fs::Permissions::from_mode(0o555)).unwrap();
        for _ in 0..2 {
            directories.keep().unwrap();
            directories.remove().unwrap();
            assert!(!directories.root.exists());
            for file in ["workspace/source/left.state", "spool/state-1"] {
                assert!(directories.kept.join(file).exists(), "{file}");
            }
        }
        fs::set_permissions(directories.kept.join("workspace"), fs::Permissions::from_mode(0o755))
            .unwrap();
    }

    /// It has what a read stage knew, which no container of the write stage may see.
    #[test]
    fn what_is_handed_over_is_not_in_the_workspace_that_was_opened() {
        let host = tempfile::tempdir().unwrap();
        let directories = directories(host.path());
        directories.empty_workspace().unwrap();
        fs::write(directories.source.join("main.tf"), "").unwrap();
        let image = Some(PlannedIn { id: "sha256:1".into(), digests: Vec::new() });
        let handover = Handover { environment: Vec::new(), image };
        handover.put(&directories.workspace).unwrap();
        let key = PoolKey::generate(2048).unwrap();
        let stack: StackId = "stack".parse().unwrap();
        let attempt = attempt();
        let mut leaving = seal(&directories, &stack, attempt, &key).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(leaving.header.as_bytes()).unwrap();
        io::copy(&mut leaving.payload, &mut file).unwrap();
        // A second time, as after a restart of the launcher.
        for _ in 0..2 {
            let mut file = file.try_clone().unwrap();
            file.rewind().unwrap();
            let sealed = SealedWorkspace {
                url: String::new(),
                size: 0,
                epoch: attempt.epoch.0,
                payload_sha256: leaving.statement.payload_sha256.to_string(),
                payload_size: leaving.statement.payload_len,
                signature: leaving.signature.to_string(),
            };
            open(&directories, file, &sealed, &stack, attempt, &[&key]).unwrap();
            let names = fs::read_dir(&directories.workspace).unwrap();
            let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["source"]);
            assert_eq!(Handover::read(&directories.workspace).unwrap(), handover);
        }
    }

    /// Whoever drives an attempt on finds what was derived before.
    #[test]
    fn a_limit_of_the_disk_is_kept_with_its_attempt() {
        let host = tempfile::tempdir().unwrap();
        let first = directories(host.path());
        assert_eq!(first.disk_limit(), None);
        first.keep_disk_limit(20 << 30).unwrap();
        let again =
            Directories::of(attempt(), &host.path().join("state"), &host.path().join("secrets"));
        assert_eq!(again.disk_limit(), Some(20 << 30));
        again.remove().unwrap();
        again.keep_disk_limit(1).unwrap_err();
        assert!(!again.root.exists(), "nothing comes back that was removed");
    }

    /// Any user of the host can make directories in `/dev/shm`, under the names of stages to come.
    #[test]
    fn a_directory_for_secrets_is_ours_or_none() {
        let shared = tempfile::tempdir().unwrap();
        let path = shared.path().join("own");
        for _ in 0..2 {
            make_own(&path, 0o770).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o770);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let mode = fs::metadata(elsewhere.path()).unwrap().mode();
        let link = shared.path().join("link");
        symlink(elsewhere.path(), &link).unwrap();
        make_own(&link, 0o770).unwrap_err();
        assert_eq!(fs::metadata(elsewhere.path()).unwrap().mode(), mode);
        // Only root can make one for somebody else.
        let foreign = shared.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        if std::os::unix::fs::chown(&foreign, Some(1), None).is_ok() {
            let refused = make_own(&foreign, 0o770).unwrap_err();
            assert!(refused.to_string().contains("another user"), "{refused}");
        }
    }
}

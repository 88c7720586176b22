//! This host: the state directory and who holds it, the boot, the embedded worker binary.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use rustix::fs::FlockOperation;

use crate::blob::hex;
use crate::explain::{Exit, Explain};
use crate::workspace::make;

/// The worker binary, static, as the build made it.
const WORKER_BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gantry-worker"));

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another launcher has it.
    #[error("{directory} belongs to the launcher with process id {pid}")]
    Held {
        /// The directory.
        directory: PathBuf,
        /// The other's process id, or `?`.
        pid: String,
    },
    /// It cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Explain for HostError {
    fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Held { .. } => "stop it, or give this one a GANTRY_STATE_DIR of its own",
            Self::Io { .. } => {
                "give the launcher's user a GANTRY_STATE_DIR that it can write, on a disk with space"
            }
        })
    }

    fn exit_code(&self) -> Exit {
        Exit::State
    }
}

/// The state directory, held by this process alone while this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: fs::File,
}

impl StateDir {
    /// Makes the directory, or takes the one that is there, for this process alone.
    ///
    /// # Errors
    /// Every [`HostError`].
    pub fn hold(path: &Path) -> Result<Self, HostError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| HostError::Io { path, source }
        };
        make(path, 0o700).map_err(at(path))?;
        let lock_path = path.join("lock");
        let mut lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let read = (&lock).take(20).read_to_string(&mut pid).is_ok();
                let pid = if read { pid.trim().to_owned() } else { "?".to_owned() };
                return Err(HostError::Held { directory: path.to_owned(), pid });
            }
            Err(errno) => return Err(at(&lock_path)(errno.into())),
        }
        lock.set_len(0)
            .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()))
            .map_err(at(&lock_path))?;
        make(&path.join("runs"), 0o700).map_err(at(path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Puts the worker binary where containers can mount it, unless it is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn worker_binary(&self) -> Result<PathBuf, HostError> {
        let directory = self.path.join("bin");
        let hash = hex(&sha256(WORKER_BINARY));
        let path = directory.join(format!("gantry-worker-{}", &hash[..16]));
        let write = || -> io::Result<()> {
            if fs::read(&path).is_ok_and(|there| there == WORKER_BINARY) {
                return Ok(());
            }
            make(&directory, 0o700)?;
            let fresh = directory.join("gantry-worker.new");
            fs::write(&fresh, WORKER_BINARY)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
            fs::File::open(&fresh)?.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|source| HostError::Io { path: path.clone(), source })?;
        Ok(path)
    }
}

/// The kernel's id of this boot: another one after every start of the host.
#[must_use]
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

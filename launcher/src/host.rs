//! This host: the state directory and who holds it, the boot, the embedded worker binary.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use gantry_model::hex;
use openssl::sha::Sha256;
use rustix::fs::FlockOperation;

use crate::explain::{Exit, Explain};
use crate::workspace::make;

/// The worker binary, static, as the build made it, compressed. Read only where it is not unpacked yet:
/// pages of it that nobody reads cost no memory.
const WORKER_BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gantry-worker.zst"));
/// The hash of the worker binary itself, in lower-case hex.
const WORKER_SHA256: &str = env!("GANTRY_WORKER_SHA256");

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
    /// It is another user's. Root could use it; then its owner could not any more.
    #[error("{path} belongs to the user with id {owner}, and this launcher runs as {user}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others can look into it, and it may be theirs too, as `/tmp` is.
    #[error("{path} can be opened by others than its owner (its mode is {mode:04o})")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
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
            Self::Foreign { .. } => {
                "start the launcher as that user, give the directory to this one with chown -R, or set GANTRY_STATE_DIR to another one"
            }
            Self::Open { .. } => {
                "set GANTRY_STATE_DIR to a directory that nobody else uses; if this one is the launcher's alone, run chmod 700 on it"
            }
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
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        claim(path)?;
        let lock_path = path.join("lock");
        let lock = fs::OpenOptions::new()
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
        let pid = std::process::id().to_string();
        let noted = lock.write_all_at(pid.as_bytes(), 0);
        if let Err(error) = noted.and_then(|()| lock.set_len(pid.len() as u64)) {
            // Only for the words of another launcher, and the disk may be full of what is in hand here.
            tracing::warn!(%error, "the lock does not say who holds it");
        }
        make(&path.join("runs"), 0o700).map_err(at(path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Puts the worker binary where containers can mount it, unless it is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn worker_binary(&self) -> Result<PathBuf, HostError> {
        let directory = self.path.join("bin");
        let path = directory.join(format!("gantry-worker-{}", &WORKER_SHA256[..16]));
        let write = || -> io::Result<()> {
            if sha256_of(&path).is_ok_and(|there| there == WORKER_SHA256) {
                return Ok(());
            }
            make(&directory, 0o700)?;
            let fresh = directory.join("gantry-worker.new");
            zstd::stream::copy_decode(WORKER_BINARY, fs::File::create(&fresh)?)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
            fs::File::open(&fresh)?.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|source| HostError::Io { path: path.clone(), source })?;
        Ok(path)
    }
}

/// Makes sure that the directory is ours alone. What others may use too is left as it is: nobody may find
/// that a launcher took `/tmp` away from everybody.
fn claim(path: &Path) -> Result<(), HostError> {
    let at = |source| HostError::Io { path: path.to_owned(), source };
    let meta = fs::metadata(path).map_err(at)?;
    let (owner, user) = (meta.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(HostError::Foreign { path: path.to_owned(), owner, user });
    }
    let mode = meta.permissions().mode() & 0o7777;
    let others = mode & 0o077;
    if others == 0 {
        return Ok(());
    }
    // A volume or a directory that was just made for this: nobody has put anything there, nor can.
    let is_written = others & 0o002 != 0;
    let is_new = !is_written && fs::read_dir(path).map_err(at)?.next().is_none();
    if !is_new {
        return Err(HostError::Open { path: path.to_owned(), mode });
    }
    tracing::info!(directory = %path.display(), "made the empty state directory accessible to its owner alone");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at)
}

/// The hash of a file, read in small parts.
fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hex(&hash.finish())),
            length => hash.update(&part[..length]),
        }
    }
}

/// The kernel's id of this boot: another one after every start of the host.
#[must_use]
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_others_use_too_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let made = |name: &str, mode| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            set(&path, mode);
            path
        };
        // As `/tmp` is, whether or not anybody has something there now.
        let shared = made("shared", 0o1777);
        let used = made("used", 0o755);
        fs::write(used.join("somebody's"), "").unwrap();
        for (path, expected) in [(&shared, 0o1777), (&used, 0o755)] {
            let refused = StateDir::hold(path).unwrap_err();
            assert!(matches!(refused, HostError::Open { .. }), "{refused}");
            assert_eq!(mode(path), expected);
        }
        let fresh = made("fresh", 0o755);
        drop(StateDir::hold(&fresh).unwrap());
        assert_eq!(mode(&fresh), 0o700);
        // An earlier launcher's, which somebody has opened to others since.
        set(&fresh, 0o750);
        let refused = StateDir::hold(&fresh).unwrap_err();
        assert!(refused.help().is_some_and(|help| help.contains("chmod 700")), "{refused}");
        // Only root can make one for somebody else.
        if std::os::unix::fs::chown(&fresh, Some(1), None).is_ok() {
            let refused = StateDir::hold(&fresh).unwrap_err();
            assert!(matches!(refused, HostError::Foreign { owner: 1, .. }), "{refused}");
        }
    }

    #[test]
    fn the_worker_binary_is_put_whole_and_a_changed_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::hold(directory.path()).unwrap();
        let path = state.worker_binary().unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole, include_bytes!(concat!(env!("OUT_DIR"), "/gantry-worker")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        let changed = |mut bytes: Vec<u8>| {
            bytes[whole.len() / 2] ^= 1;
            bytes
        };
        for broken in [changed(whole.clone()), whole[..whole.len() - 1].to_vec(), Vec::new()] {
            fs::write(&path, broken).unwrap();
            assert_eq!(state.worker_binary().unwrap(), path);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        let kept = fs::metadata(&path).unwrap().modified().unwrap();
        state.worker_binary().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), kept);
    }
}

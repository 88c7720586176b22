//! The data directory: everything that a server keeps, and the lock that makes it the only one.
//!
//! The directory is 0700 and its files are 0600. Files are replaced whole: a reader, and a server that
//! was killed, sees the old content or the new.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

/// The database's name, which nobody else gives a file.
const DATABASE: &str = "gantry.db";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server has it.
    #[error("{} is in use by the server with pid {pid}: stop it, or start this one with another --data", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who holds the lock; `unknown` if it has yet to write that down.
        pid: String,
    },
    /// Others than the owner can look into it.
    #[error("{} can be opened by others than its owner: run chmod 700 on it", path.display())]
    Open {
        /// The data directory.
        path: PathBuf,
    },
    /// It is another user's. Root could use it; then its owner could not any more.
    #[error(
        "{} belongs to {owner} and this runs as {user}: run it as {owner}, give the directory to {user} with \
         chown -R, or choose an empty one for --data", path.display()
    )]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        user: String,
    },
    /// It is no data directory, and not meant to become one.
    #[error("{} holds other things: choose an empty directory for --data, or the one that a server made", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl DataDirError {
    fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { act, path, source }
    }
}

/// What `server.json` says about the running server, and, after it, about the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFile {
    /// The server's process.
    pub pid: u32,
    /// The API's url.
    pub api: String,
    /// The broker's address.
    pub mqtt: String,
    /// The object store's url.
    pub objects: String,
    /// The file with the authority's certificate.
    pub ca: PathBuf,
}

/// A locked data directory. The lock ends with this value, or with the process however that ends.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// Held open for its lock.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes its lock.
    ///
    /// # Errors
    /// When another server or another user has it, others can look into it, or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        make.create(path).map_err(DataDirError::io("make", path))?;
        let root = fs::canonicalize(path).map_err(DataDirError::io("find", path))?;
        check(&root, geteuid().as_raw())?;
        let lock = lock(&root)?;
        let dir = Self { root, _lock: lock };
        make.create(dir.objects()).map_err(DataDirError::io("make", &dir.objects()))?;
        Ok(dir)
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    /// The authority's key.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca.key")
    }

    /// The certificate of this start's listeners.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.root.join("server.pem")
    }

    /// The key of this start's listeners.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.root.join("server.key")
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
    }

    /// What is left of the database after it was brought to PostgreSQL.
    #[must_use]
    pub fn moved_database(&self) -> PathBuf {
        self.root.join("gantry.db.moved")
    }

    /// The directory of the local object store.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// The credentials of the local object store.
    #[must_use]
    pub fn objects_credentials(&self) -> PathBuf {
        self.root.join("objects.json")
    }

    /// The first API key.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.root.join("admin.json")
    }

    /// The key that signs the API's sessions.
    #[must_use]
    pub fn session_key(&self) -> PathBuf {
        self.root.join("session.key")
    }

    /// Where the server listens.
    #[must_use]
    pub fn server_file(&self) -> PathBuf {
        self.root.join("server.json")
    }

    /// Writes a file of the directory whole and durably, with mode 0600.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, path: &Path, content: &[u8]) -> Result<(), DataDirError> {
        let temporary = path.with_added_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(DataDirError::io("write", &temporary))?;
        file.set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.write_all(content))
            .and_then(|()| file.sync_all())
            .map_err(DataDirError::io("write", &temporary))?;
        fs::rename(&temporary, path).map_err(DataDirError::io("write", path))?;
        File::open(&self.root)
            .and_then(|root| root.sync_all())
            .map_err(DataDirError::io("write", path))
    }

    /// Makes a file of the directory for others to write: empty if it is new, with mode 0600 in any
    /// case. SQLite gives the files beside its database the mode of the database.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_private(&self, path: &Path) -> Result<(), DataDirError> {
        let mut open = OpenOptions::new();
        let file = open.append(true).create(true).mode(0o600).open(path);
        file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
            .map_err(DataDirError::io("write", path))
    }

    /// What the last server wrote into `server.json`; `None` if there was none or it cannot be read.
    #[must_use]
    pub fn last_server(&self) -> Option<ServerFile> {
        let content = fs::read(self.server_file()).ok()?;
        serde_json::from_slice(&content).ok()
    }

    /// Writes `server.json`.
    ///
    /// # Errors
    /// When the file system refuses.
    ///
    /// # Panics
    /// Never: the file is made of strings and a number.
    pub fn write_server_file(&self, file: &ServerFile) -> Result<(), DataDirError> {
        let mut content = serde_json::to_vec_pretty(file).expect("strings and numbers become JSON");
        content.push(b'\n');
        self.write(&self.server_file(), &content)
    }
}

/// Refuses a directory that is not `user`'s alone.
fn check(root: &Path, user: u32) -> Result<(), DataDirError> {
    let found = fs::metadata(root).map_err(DataDirError::io("look at", root))?;
    let (is_own, is_open) = (found.uid() == user, found.mode() & 0o077 != 0);
    if is_own && !is_open {
        return Ok(());
    }
    let path = root.to_owned();
    Err(if holds_other_things(root) {
        DataDirError::Occupied { path }
    } else if is_own {
        DataDirError::Open { path }
    } else {
        DataDirError::Foreign { path, owner: name_of(found.uid()), user: name_of(user) }
    })
}

/// Whether there is something in it, and nothing that only a server makes. False if we may not look.
fn holds_other_things(root: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(root) else { return false };
    // A new file system comes with it.
    let is_something = |name: &std::ffi::OsStr| name != "lost+found";
    entries.any(|entry| entry.is_ok_and(|entry| is_something(&entry.file_name())))
        && !root.join(DATABASE).exists()
        // Of a server whose database is PostgreSQL's.
        && !["admin.json", "ca.key"].iter().all(|name| root.join(name).exists())
}

/// The user's name in `/etc/passwd`, or else the number.
fn name_of(user: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(user)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| user.to_string())
}

/// Takes the lock file's lock and writes our pid into it.
fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(DataDirError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(DataDirError::Locked { path: root.to_owned(), pid: holder(&mut file) });
        }
        Err(error) => return Err(DataDirError::io("lock", &path)(error.into())),
    }
    let write = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(DataDirError::io("write", &path))?;
    Ok(file)
}

/// The pid in the lock file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    let pid = text.trim();
    let is_pid = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if is_pid { pid.to_owned() } else { "unknown".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_told_by_whom() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/data");
        let first = DataDir::open(&path).unwrap();
        let refused = DataDir::open(&path).unwrap_err();
        let us = std::process::id().to_string();
        assert!(matches!(&refused, DataDirError::Locked { pid, .. } if *pid == us), "{refused}");
        drop(first);
        assert!(DataDir::open(&path).is_ok());
    }

    #[test]
    fn what_it_makes_is_for_the_owner_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temporary.path().join("data")).unwrap();
        dir.write(&dir.admin(), b"{}").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.root()), 0o700);
        assert_eq!(mode(&dir.objects()), 0o700);
        assert_eq!(mode(&dir.admin()), 0o600);
    }

    #[test]
    fn a_directory_that_others_can_open_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Open { .. })));
    }

    #[test]
    fn nobody_is_told_to_close_a_directory_that_holds_other_things() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(path.join("lost+found")).unwrap();
        assert!(matches!(DataDir::open(path), Err(DataDirError::Open { .. })));
        fs::write(path.join("passwd"), "").unwrap();
        let us = geteuid().as_raw();
        for user in [us, us + 1] {
            let refused = check(path, user).unwrap_err();
            assert!(matches!(refused, DataDirError::Occupied { .. }), "{refused}");
            assert!(refused.to_string().contains("choose an empty directory"), "{refused}");
        }
        fs::write(path.join(DATABASE), "").unwrap();
        let refused = DataDir::open(path).unwrap_err();
        assert!(matches!(refused, DataDirError::Open { .. }), "a server made it: {refused}");
    }

    #[test]
    fn a_directory_of_another_user_is_refused_and_its_owner_named() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        drop(DataDir::open(&path).unwrap());
        fs::write(path.join(DATABASE), "").unwrap();
        // As root finds it: it may do everything there.
        let us = geteuid().as_raw();
        let refused = check(&path, 4_000_000_000).unwrap_err().to_string();
        let owner = name_of(us);
        assert!(refused.contains(&format!("belongs to {owner} and")), "{refused}");
        assert!(refused.contains("runs as 4000000000:"), "{refused}");
        assert!(refused.contains("chown -R"), "{refused}");
        check(&path, us).unwrap();
    }

    #[test]
    fn users_are_told_by_name() {
        assert_eq!(name_of(0), "root");
        assert_eq!(name_of(4_000_000_000), "4000000000");
    }

    #[test]
    fn server_json_survives_a_restart() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&temporary.path().join("data")).unwrap();
        assert_eq!(dir.last_server(), None);
        let file = ServerFile {
            pid: 1,
            api: "https://127.0.0.1:1".to_owned(),
            mqtt: "127.0.0.1:2".to_owned(),
            objects: "https://127.0.0.1:3".to_owned(),
            ca: dir.ca_certificate(),
        };
        dir.write_server_file(&file).unwrap();
        assert_eq!(dir.last_server(), Some(file));
    }
}

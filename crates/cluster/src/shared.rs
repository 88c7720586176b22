//! The server that all tests of this user share.
//!
//! A shell starts it and reads from a pipe that every test keeps open for writing. When the last of them has ended,
//! by a signal too, it reads the end and stops the server.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use crate::server::{
    SETTINGS, as_server, init, make_folder, program, try_psql, url, wait_until_ready,
};

/// How long the end of a server is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// `O_NONBLOCK` of Linux: the pipe opens only when somebody reads it.
const NONBLOCK: i32 = 0o4000;

/// A database of one test's own on the shared server. It goes when this is dropped.
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    folder: PathBuf,
    /// As long as it is open the server goes on.
    _user: File,
}

/// What was in a database at one moment.
#[derive(Debug)]
pub struct Kept(Database);

impl Database {
    /// Makes one.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn create() -> Self {
        let folder = std::env::temp_dir().join(format!("gantry-postgres-{}", geteuid().as_raw()));
        Self::made_in(&folder, "template1")
    }

    fn made_in(folder: &Path, template: &str) -> Self {
        let name = format!("t{}", ulid::Ulid::generate().to_string().to_lowercase());
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        let user = join(folder, &create);
        Self(Arc::new(Inner { name, folder: folder.to_owned(), _user: user }))
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.0.folder, &self.0.name)
    }

    /// Keeps what is in it now. Nobody may be connected.
    ///
    /// # Panics
    /// When somebody is.
    #[must_use]
    pub fn keep(&self) -> Kept {
        Kept(Self::made_in(&self.0.folder, &self.0.name))
    }

    /// Has in it again what was there then, and nothing else. Nobody may be connected.
    ///
    /// # Panics
    /// When somebody is.
    pub fn restore(&self, kept: &Kept) {
        let Inner { name, folder, .. } = &*self.0;
        let old = &kept.0.0.name;
        for sql in
            [format!("DROP DATABASE {name}"), format!("CREATE DATABASE {name} TEMPLATE {old}")]
        {
            try_psql(folder, "postgres", &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // With the server it goes anyway.
        let _ = try_psql(&self.folder, "postgres", &drop);
    }
}

/// Starts the server if it does not run, and runs a statement that proves that it does.
fn join(folder: &Path, proof: &str) -> File {
    // A lock on a file counts for a process, not for its threads.
    static THREADS: Mutex<()> = Mutex::new(());
    let _threads: MutexGuard<'_, ()> = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = File::create(folder.with_extension("lock")).expect("temporary files can be made");
    flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
    let pipe = folder.join("users");
    let mut last = String::new();
    for _ in 0..3 {
        let open = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&pipe);
        let user = open.unwrap_or_else(|_| start(folder, &pipe));
        match try_psql(folder, "postgres", proof) {
            Ok(_) => return user,
            // It was about to end.
            Err(error) => last = error,
        }
    }
    panic!("PostgreSQL does not answer: {proof}: {last}")
}

fn start(folder: &Path, pipe: &Path) -> File {
    let begun = Instant::now();
    while folder.join("data/postmaster.pid").exists() && is_alive(folder) {
        assert!(begun.elapsed() < PATIENCE, "the PostgreSQL in {} does not end", folder.display());
        sleep(Duration::from_millis(20));
    }
    // `initdb` takes a second: what it made is kept, and each start begins with a copy.
    let _ = fs::remove_dir_all(folder.join("data"));
    let _ = fs::remove_file(pipe);
    make_folder(folder);
    let fresh = folder.join("fresh");
    if !fresh.join("made").exists() {
        let _ = fs::remove_dir_all(&fresh);
        init(&fresh);
        File::create(fresh.join("made")).expect("the folder was just made");
    }
    let mut copy = Command::new("cp");
    as_server(&mut copy);
    let done = copy.arg("-r").arg(&fresh).arg(folder.join("data")).status().expect("cp starts");
    assert!(done.success(), "a fresh cluster can not be copied");
    let fast = ["fsync=off", "full_page_writes=off", "synchronous_commit=off"];
    let settings: Vec<String> =
        SETTINGS.iter().chain(&fast).map(|it| format!("-c '{it}'")).collect();
    let settings = settings.join(" ");
    // In the background, where it is nobody's child.
    let script = format!(
        "mkfifo -m 600 users && chmod 700 data || exit; \
         (\"$1\" -D data -k \"$PWD\" {settings} & cat users; kill -INT $!; wait) &"
    );
    let mut shell = Command::new("sh");
    as_server(&mut shell);
    let log = File::create(folder.join("log")).expect("the folder was just made");
    let started = shell
        .args(["-c", &script, "sh"])
        .arg(program("postgres").get_program())
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .status()
        .expect("a shell starts");
    assert!(started.success(), "PostgreSQL's folder can not be prepared");
    let user = loop {
        if let Ok(user) = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(pipe) {
            break user;
        }
        assert!(begun.elapsed() < PATIENCE, "the shell of PostgreSQL does not start");
        sleep(Duration::from_millis(5));
    };
    wait_until_ready(folder);
    user
}

/// Whether the process is there that says it is the server.
fn is_alive(folder: &Path) -> bool {
    let said = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    let pid = said.lines().next().unwrap_or_default().to_owned();
    !pid.is_empty() && Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_in_a_database_again() {
        let database = Database::create();
        let psql = |sql: &str| try_psql(&database.0.folder, &database.0.name, sql).unwrap();
        psql("CREATE TABLE one (x TEXT); INSERT INTO one VALUES ('b'), ('B'), ('a')");
        let kept = database.keep();
        psql("DROP TABLE one");
        database.restore(&kept);
        assert_eq!(psql("SELECT x FROM one ORDER BY x"), "a\nb\nB", "not the order of bytes");
    }
}

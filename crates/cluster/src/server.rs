//! A server in a folder.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// The user that the server is when the tests are root's.
const NOBODY: u32 = 65534;
/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of PostgreSQL's programs: those of the newest version.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        entry.path().join("bin/initdb").exists().then_some((number, entry.path().join("bin")))
    });
    newest.max().expect("no PostgreSQL is installed: apt-get install postgresql").1
}

/// One of PostgreSQL's programs, as the user that the server is.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(programs().join(name)); // starts: initdb, postgres, psql
    as_server(&mut command);
    command.stdin(Stdio::null()).env_clear().env("LC_ALL", "C.UTF-8");
    // What ends the tests by a signal to their group must not end the server before they have ended.
    command.process_group(0);
    command
}

pub(crate) fn as_server(command: &mut Command) {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// Makes the folder, for the server alone.
pub(crate) fn make_folder(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder for PostgreSQL can be made");
    if geteuid().is_root() {
        std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may do that");
    }
}

/// Makes a cluster without anything in it. Its order of text is none of those that SQLite has, so that a column
/// which does not say its own is noticed.
pub(crate) fn init(data: &Path) {
    let done = program("initdb")
        .arg("-D")
        .arg(data)
        .args(["-U", "gantry", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
        .args(["--locale-provider=icu", "--icu-locale=en-US", "--no-sync", "--no-instructions"])
        .output()
        .expect("initdb starts");
    assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
}

/// What each server is told.
pub(crate) const SETTINGS: [&str; 7] = [
    "listen_addresses=",
    "shared_buffers=32MB",
    "max_connections=200",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "log_min_messages=fatal",
];

/// Runs statements through `psql`.
pub(crate) fn try_psql(socket: &Path, database: &str, sql: &str) -> Result<String, String> {
    let done = program("psql")
        .arg("-h")
        .arg(socket)
        .args(["-U", "gantry", "-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
        .args(["-c", sql])
        .output()
        .expect("psql starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

/// Waits until the server there takes statements.
pub(crate) fn wait_until_ready(socket: &Path) {
    let begun = Instant::now();
    while let Err(error) = try_psql(socket, "postgres", "SELECT 1") {
        assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start: {error}");
        sleep(Duration::from_millis(20));
    }
}

/// Where a client finds a database.
pub(crate) fn url(socket: &Path, database: &str) -> String {
    let socket: String = socket
        .to_str()
        .expect("temporary folders have plain names")
        .replace('%', "%25")
        .replace('/', "%2F");
    format!("postgres://gantry@{socket}/{database}")
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It ends its sessions and itself in order.
    Fast,
    /// It ends as in a crash.
    Immediate,
}

/// A server of one test's own. It ends when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts one, with these settings besides the usual ones, such as `max_connections=5`.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("gantry-pg-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        make_folder(folder.path());
        init(&folder.path().join("data"));
        let settings = SETTINGS.iter().chain(settings).map(|&it| it.to_owned()).collect();
        let mut cluster = Self { folder, settings, child: None };
        cluster.start_again();
        let _ = cluster.psql("postgres", "CREATE DATABASE gantry");
        cluster
    }

    /// Where clients find its database.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.folder.path(), "gantry")
    }

    /// The folder with its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it when it was stopped.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::File::create(self.folder.path().join("log")).expect("a log can be made");
        let mut command = program("postgres");
        command.arg("-D").arg(self.folder.path().join("data"));
        command.arg("-k").arg(self.folder.path());
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        let error = log.try_clone().expect("a file can be shared");
        self.child = Some(command.stdout(log).stderr(error).spawn().expect("postgres starts"));
        wait_until_ready(self.folder.path());
    }

    /// Stops it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&mut self, how: Stop) {
        let mut child = self.child.take().expect("it runs");
        signal(&child, if how == Stop::Fast { Signal::INT } else { Signal::QUIT });
        child.wait().expect("it is our child");
    }

    /// Its process stands still, with all its sessions, until [`Cluster::resume`]: as a host that is cut off.
    pub fn suspend(&self) {
        self.each(Signal::STOP);
    }

    /// Goes on after [`Cluster::suspend`].
    pub fn resume(&self) {
        self.each(Signal::CONT);
    }

    fn each(&self, what: Signal) {
        let Some(child) = &self.child else { return };
        // They are all in one group, but each session is in one of its own.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // One that has just ended needs none.
            let _ = kill_process(pid, what);
        }
        signal(child, what);
    }

    /// Runs statements in one of its databases, and answers what they print.
    ///
    /// # Panics
    /// When they fail.
    #[must_use]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        try_psql(self.folder.path(), database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

fn signal(child: &Child, what: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a number");
    // It may have ended by itself.
    let _ = kill_process(pid, what);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.resume();
            self.stop(Stop::Immediate);
        }
    }
}

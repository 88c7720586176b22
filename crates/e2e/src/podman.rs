//! A Podman engine of a test's own: Debian's package, behind the socket that speaks Docker's API.
//!
//! It stands by itself, so that the launcher's contract tests can include it too.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The runtime that Docker brings too; no more files and processes than a host may be allowed to have; and nothing
/// of systemd, which may not be there.
const CONTAINERS_CONF: &str = r#"[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// An engine with everything of its own: images, containers, socket and configuration.
#[derive(Debug)]
pub struct Podman {
    dir: TempDir,
    service: Child,
    /// What it says goes on to be read: it must not meet a full pipe, nor a closed one.
    said: Option<std::thread::JoinHandle<()>>,
}

impl Podman {
    /// Starts one that has no image.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-podman-").tempdir();
        let dir = dir.expect("a temporary directory can be made");
        fs::write(dir.path().join("containers.conf"), CONTAINERS_CONF).expect("it is ours");
        let mut command = podman(dir.path());
        command.args(["--log-level=info", "system", "service", "--time=0"]);
        command.arg(format!("unix://{}", socket(dir.path()).display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut service = command.spawn().expect("podman is on PATH: run `cargo xtask test`");
        let mut said = BufReader::new(service.stderr.take().expect("it is piped")).lines();
        let mut last = String::new();
        let is_listening = said.by_ref().map_while(Result::ok).any(|line| {
            last.clone_from(&line);
            line.contains("API service listening on")
        });
        assert!(is_listening, "podman listens: {last}");
        let said = std::thread::spawn(move || said.map_while(Result::ok).for_each(drop));
        if !rustix::process::geteuid().is_root() {
            let opened = as_root("chmod").arg("666").arg(socket(dir.path())).status();
            assert!(opened.expect("chmod is on PATH").success(), "the socket is open to the test");
        }
        Self { dir, service, said: Some(said) }
    }

    /// As `DOCKER_HOST` spells it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    /// Loads an image from a file that `docker save` wrote.
    pub fn load(&self, archive: &Path) {
        self.done(&["load".as_ref(), "--input".as_ref(), archive.as_os_str()]);
    }

    /// Makes an image of the files in an archive; `changes` are instructions of a Dockerfile.
    pub fn import(&self, archive: &Path, changes: &[&str], name: &str) {
        let changes = changes.iter().flat_map(|change| ["--change".as_ref(), change.as_ref()]);
        let ends = [archive.as_os_str(), name.as_ref()];
        let all: Vec<_> = ["import".as_ref()].into_iter().chain(changes).chain(ends).collect();
        self.done(&all);
    }

    /// What its own command says to this.
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(std::convert::AsRef::as_ref).collect();
        self.done(&arguments)
    }

    fn done(&self, arguments: &[&std::ffi::OsStr]) -> String {
        let mut command = podman(self.dir.path());
        let ended = command.args(arguments).stdin(Stdio::null()).output();
        let ended = ended.expect("podman is on PATH");
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "podman {arguments:?}: {complaint}");
        String::from_utf8_lossy(&ended.stdout).into_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Nothing of a test that failed goes on, nor are its mounts left.
        let mut remove = podman(self.dir.path());
        remove.args(["rm", "--all", "--force", "--time=0"]).stdin(Stdio::null());
        let _ = remove.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = as_root("kill").arg(self.service.id().to_string()).status();
        let _ = self.service.wait();
        if let Some(said) = self.said.take() {
            let _ = said.join();
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in own.filter(|mount| mount.starts_with(&dir)) {
            let _ = as_root("umount").args(["--lazy", mount]).status();
        }
        let _ = as_root("rm").args(["-rf", &dir]).stderr(Stdio::null()).status();
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("podman.sock")
}

/// Podman's command, with everything below one directory.
fn podman(dir: &Path) -> Command {
    let mut command = as_root("env"); // starts: podman
    command.arg(format!("CONTAINERS_CONF={}", dir.join("containers.conf").display()));
    command.args(["podman", "--storage-driver=vfs", "--root"]).arg(dir.join("root"));
    command.arg("--runroot").arg(dir.join("run"));
    command.arg("--tmpdir").arg(dir.join("tmp"));
    command
}

/// A program that needs to be root's.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

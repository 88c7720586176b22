//! A Docker engine of a test's own, to be stopped and started as the test likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::docker::save;
use crate::program::{Program, finished};
use crate::wait::until;

/// How long it may take to start, and to stop with containers that end by themselves.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a call to it may take.
const CALL: Duration = Duration::from_secs(60);

/// An engine beside the host's own, with everything of its own: data, containerd, socket, and a network without a
/// bridge, because one that has no bridge removes the host's.
#[derive(Debug)]
pub struct OwnEngine {
    dir: TempDir,
    options: Vec<&'static str>,
    program: Option<Program>,
}

impl OwnEngine {
    /// Starts one that has `image`, with these options besides its own.
    #[must_use]
    pub fn start(image: &str, options: &[&'static str]) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-docker-").tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let mut engine = Self { dir, options: options.to_vec(), program: None };
        engine.start_again();
        let archive = engine.path("image.tar");
        save(image, &archive);
        let archive = archive.to_str().expect("paths of tests are UTF-8");
        let _ = engine.docker(&["load", "--input", archive]);
        engine
    }

    /// Starts it again with everything that it had.
    pub fn start_again(&mut self) {
        let mut command = as_root("unshare");
        command.args(["--net", "dockerd", "--host", &self.host()]);
        for (option, file) in
            [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(option).arg(self.path(file));
        }
        // A containerd that the host runs is shared but for these.
        let name = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        command.args(["--containerd-namespace", &name]);
        command.args(["--containerd-plugins-namespace", &format!("{name}-plugins")]);
        command.args(["--bridge=none", "--iptables=false", "--ip-forward=false"]);
        command.args(&self.options);
        let mut program = Program::start("dockerd", &mut command);
        program.wait_for("that it listens", LIMIT, |line| line.contains("API listen on"));
        self.program = Some(program);
    }

    /// SIGTERM: it stops its containers, unless an option says otherwise, and leaves.
    pub fn stop(&mut self) {
        self.leave("TERM");
    }

    /// SIGKILL: its containers go on.
    pub fn kill(&mut self) {
        self.leave("KILL");
    }

    fn leave(&mut self, signal: &str) {
        // Its containerd ends with it, or a little later: the next one could not start before.
        let containerd = self.path("exec/containerd/containerd.pid");
        let containerd = fs::read_to_string(containerd).expect("containerd wrote its id");
        let containerd = Path::new("/proc").join(containerd.trim());
        self.signal(signal);
        let mut program = self.program.take().expect("it runs");
        // Not until its streams end: what goes on may hold them.
        let is_gone = || (!program.is_running() && !containerd.exists()).then_some(());
        until("dockerd and its containerd to be gone", LIMIT, is_gone);
    }

    /// As `DOCKER_HOST` spells it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// The names of all of its containers.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let listed = self.docker(&["ps", "--all", "--format", "{{.Names}}"]);
        listed.lines().map(str::to_owned).collect()
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        let ended = finished("docker", CALL, &mut command);
        assert_eq!(ended.code, Some(0), "docker {}: {}", arguments.join(" "), ended.complaint());
        ended.text()
    }

    fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.path("pid")).expect("dockerd wrote its id");
        let status = as_root("kill").args(["-s", signal, pid.trim()]).status();
        assert!(status.expect("kill is on PATH").success(), "dockerd takes SIG{signal}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // A test that failed leaves containers; without them it stops at once.
        let mut list = Command::new("docker");
        list.args(["--host", &self.host(), "ps", "--all", "--quiet"]);
        if self.program.is_some() {
            for id in finished("docker", CALL, &mut list).text().lines() {
                let mut remove = Command::new("docker");
                remove.args(["--host", &self.host(), "rm", "--force", id]);
                let _ = finished("docker", CALL, &mut remove);
            }
            self.stop();
        }
        // One that was killed leaves its mounts, and all files are root's.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in own.filter(|mount| mount.starts_with(&dir)) {
            let _ = as_root("umount").args(["--lazy", mount]).status();
        }
        let _ = as_root("rm").args(["-rf", &dir]).stderr(Stdio::null()).status();
    }
}

/// A program that needs to be root's.
pub(crate) fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

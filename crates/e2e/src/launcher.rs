//! `gantry-launcher`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::config::{Config, Transport};
use crate::journal::Tail;
use crate::pool::Pool;
use crate::program::{Ended, Program};

const PROGRAM: &str = "gantry-launcher";
/// How long a launcher may take to be registered.
const REGISTERED: Duration = Duration::from_secs(60);

/// What a launcher is started with.
#[derive(Debug, Clone)]
pub struct LauncherSetup {
    config: Config,
    name: String,
    state: PathBuf,
    environment: Vec<(String, String)>,
    /// Who it runs as, if not as the test does.
    user: Option<User>,
}

/// Somebody without rights, but for the use of Docker.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    docker: u32,
}

impl LauncherSetup {
    /// The least that a launcher of `pool` needs; `shared` is mounted at `/count` in its containers.
    #[must_use]
    pub(crate) fn new(config: &Config, pool: &Pool, dir: &Path, name: &str, shared: &Path) -> Self {
        let key = pool.key_text();
        let launching = gantry_stand::Launching {
            token: &pool.token,
            key: &key,
            image: &config.image,
            network: &config.network,
            transport: config.transport.name(),
        };
        let mounts = ("SPACELIFT_WORKER_EXTRA_MOUNTS", format!("{}:/count", shared.display()));
        let variables = launching.variables().into_iter().chain([mounts]);
        let environment = variables.map(|(name, value)| (name.to_owned(), value)).collect();
        let (config, name, state) = (config.clone(), name.to_owned(), dir.join(name));
        Self { config, name, state, environment, user: None }
    }

    /// Neither root nor the user of the phases. A test that is not root is nobody special itself.
    #[must_use]
    pub fn nobody_special(self) -> Self {
        self.run_by(4242)
    }

    /// The user of the phases, as the operations page sets it up. A test that is not root stays who it is.
    #[must_use]
    pub fn user_of_the_phases(self) -> Self {
        self.run_by(1983)
    }

    fn run_by(mut self, uid: u32) -> Self {
        if rustix::process::geteuid().is_root() {
            let socket = fs::metadata("/var/run/docker.sock").expect("Docker's socket is there");
            self.user = Some(User { uid, docker: socket.gid() });
        }
        self
    }

    /// Reaches the server through this address, by whatever transport it uses.
    #[must_use]
    pub fn through(self, pool: &Pool, address: &str) -> Self {
        match self.config.transport {
            Transport::Mqtt => self.env("SPACELIFT_TOKEN", &pool.token_through(address)),
            Transport::Poll => {
                self.env("SPACELIFT_WORKER_COMMS_URL", &format!("https://{address}"))
            }
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until the control plane has welcomed it.
    #[must_use]
    pub fn start(self) -> Launcher {
        let mut launcher = self.start_unregistered();
        launcher.registered();
        launcher
    }

    /// Starts it.
    #[must_use]
    pub fn start_unregistered(self) -> Launcher {
        fs::create_dir_all(&self.state).expect("a state directory can be made");
        fs::set_permissions(&self.state, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let secrets = tempfile::Builder::new().prefix("gantry-e2e-").tempdir_in("/dev/shm");
        let secrets = secrets.expect("/dev/shm takes a directory");
        if let Some(user) = self.user {
            for dir in [&self.state, secrets.path()] {
                chown(dir, Some(user.uid), None).expect("root may give directories away");
            }
            let parent = self.state.parent().expect("it lies in the stand's");
            fs::set_permissions(parent, fs::Permissions::from_mode(0o711)).expect("it is ours");
            // What lies in the home of root can be run by nobody else.
            fs::copy(self.config.launcher(), self.state.join(PROGRAM)).expect("the disk takes it");
        }
        let mut launcher = Launcher { setup: self, secrets, program: None, said: Vec::new() };
        launcher.start_again();
        launcher
    }
}

/// A launcher. Its state directory stays the same over restarts.
#[derive(Debug)]
pub struct Launcher {
    setup: LauncherSetup,
    secrets: TempDir,
    program: Option<Program>,
    /// What earlier processes said.
    said: Vec<u8>,
}

impl Launcher {
    /// Starts it again with the same state directory, without waiting for anything.
    pub fn start_again(&mut self) {
        let state = &self.setup.state;
        let program = match self.setup.user {
            Some(_) => state.join(PROGRAM),
            None => self.setup.config.launcher(),
        };
        let mut command = gantry_stand::launcher(&program, state, self.secrets.path());
        if let Some(user) = self.setup.user {
            command.uid(user.uid).gid(user.docker);
        }
        command.envs(self.setup.environment.iter().cloned());
        self.program = Some(Program::start(&self.setup.name, &mut command));
    }

    /// Waits until the control plane has welcomed the present process.
    pub fn registered(&mut self) {
        self.says(gantry_stand::REGISTERED, REGISTERED);
    }

    /// Waits until the present process has logged this message.
    pub fn says(&mut self, message: &str, limit: Duration) -> Value {
        let is_it = |line: &str| gantry_stand::logged(line, message).is_some();
        let program = self.program.as_mut().expect("the launcher runs");
        let line = program.wait_for(&format!("{message:?}"), limit, is_it);
        gantry_stand::logged(&line, message).expect("it was just found")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill();
            self.said.extend(program.said());
        }
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.program.as_mut().expect("the launcher runs").signal(signal);
    }

    /// Waits until it has left by itself.
    pub fn left(&mut self, limit: Duration) -> Ended {
        let mut program = self.program.take().expect("the launcher runs");
        let ended = program.ended(limit);
        self.said.extend(program.said());
        ended
    }

    /// SIGTERM; waits until it has left.
    pub fn stop(&mut self) -> Ended {
        self.signal(Signal::TERM);
        self.left(Duration::from_secs(60))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.as_ref().expect("the launcher runs").pid()
    }

    /// Everything that it ever said.
    #[must_use]
    pub fn said(&self) -> Vec<u8> {
        let now = self.program.as_ref().map(Program::said).unwrap_or_default();
        [self.said.as_slice(), &now].concat()
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.setup.state
    }

    /// Its directory for secrets.
    #[must_use]
    pub fn secrets_dir(&self) -> &Path {
        self.secrets.path()
    }

    /// The directories of runs in hand.
    #[must_use]
    pub fn runs(&self) -> Vec<PathBuf> {
        entries(&self.setup.state.join("runs"))
    }

    /// Its journal from now on.
    #[must_use]
    pub fn journal(&self) -> Tail {
        Tail::of(&self.setup.state)
    }
}

pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

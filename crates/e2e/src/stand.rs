//! One test's own Gantry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::cli::Cli;
use crate::config::{Config, Transport};
use crate::docker::{self, Container};
use crate::launcher::{Launcher, LauncherSetup, entries};
use crate::podman::Podman;
use crate::pool::Pool;
use crate::server::Server;
use crate::stack::StackSetup;
use crate::wait::until_seen;

/// How long a launcher may take to tidy up.
const TIDY: Duration = Duration::from_secs(30);

/// A server and a pool, and a directory that the runs' containers share with the test.
#[derive(Debug)]
pub struct Stand {
    /// What the tests were told.
    pub config: Config,
    /// The server.
    pub server: Server,
    /// The operator's command, logged in.
    pub cli: Cli,
    /// The pool.
    pub pool: Pool,
    /// Where runs go; none for the host's own Docker.
    podman: Option<Podman>,
    dir: TempDir,
}

impl Stand {
    /// Starts the server, logs in and makes the pool, without a recovery key.
    #[must_use]
    pub fn new() -> Self {
        Self::start(Config::read(), false)
    }

    /// The same, whose launchers reach the server by this transport.
    #[must_use]
    pub fn over(transport: Transport) -> Self {
        Self::start(Config { transport, ..Config::read() }, false)
    }

    /// The same with a recovery key, which takes its time.
    #[must_use]
    pub fn with_recovery() -> Self {
        Self::start(Config::read(), true)
    }

    /// One whose launchers run their stages in a Podman of their own.
    #[must_use]
    pub fn on_podman() -> Self {
        let mut stand = Self::new();
        let podman = Podman::start();
        let archive = stand.dir().join("image.tar");
        docker::save(&stand.config.image, &archive);
        podman.load(&archive);
        stand.podman = Some(podman);
        stand
    }

    fn start(config: Config, has_recovery: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-e2e-").tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).expect("a directory can be made");
        // Phases run as the image's user.
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("it is ours");
        let server = Server::start(&config, &dir.path().join("data"));
        let cli = Cli {
            config: config.clone(),
            home: dir.path().join("config"),
            dir: dir.path().to_owned(),
        };
        let admin = server.data().join("admin.json");
        let _ = cli.done(&["login", "--from", admin.to_str().expect("paths of tests are UTF-8")]);
        let pool = Pool::create(&cli, dir.path(), "pool", has_recovery);
        Self { config, server, cli, pool, podman: None, dir }
    }

    /// The directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A launcher of the pool, to be started. Each name has a state directory of its own.
    #[must_use]
    pub fn launcher(&self, name: &str) -> LauncherSetup {
        let setup = LauncherSetup::new(&self.config, &self.pool, self.dir(), name, &self.shared());
        match &self.podman {
            // A bridge would be one of the host's. The state is served within the container.
            Some(podman) => {
                setup.env("DOCKER_HOST", &podman.host()).env("SPACELIFT_WORKER_NETWORK", "none")
            }
            None => setup,
        }
    }

    /// Where launchers reach the server.
    #[must_use]
    pub fn reached_at(&self) -> String {
        let address = match self.config.transport {
            Transport::Mqtt => self.pool.broker(),
            Transport::Poll => self.pool.api(),
        };
        address.rsplit_once("://").map_or(address.as_str(), |(_, address)| address).to_owned()
    }

    /// A stack of the pool, to be made.
    #[must_use]
    pub fn stack(&self, name: &str) -> StackSetup {
        StackSetup::new(&self.cli, &self.pool.id, self.dir(), name)
    }

    /// The containers of the pool, whatever state they are in.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        let host = self.podman.as_ref().map(Podman::host);
        docker::containers_at(host.as_deref(), &self.pool.id)
    }

    /// What the containers see at `/count`.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.dir().join("shared")
    }

    /// What a run's container wrote to a file of `/count`; empty if it wrote none.
    #[must_use]
    pub fn wrote(&self, name: &str) -> Vec<u8> {
        fs::read(self.shared().join(name)).unwrap_or_default()
    }

    /// How many lines that are.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        String::from_utf8_lossy(&self.wrote(name)).lines().count()
    }

    /// Makes a file of `/count`, for which a container waits.
    pub fn give(&self, name: &str) {
        fs::write(self.shared().join(name), "").expect("the shared directory is ours");
    }

    /// Waits until a container made a file of `/count`.
    pub fn awaits(&self, name: &str, limit: Duration) {
        let path = self.shared().join(name);
        crate::wait::until(&format!("a container to make {name}"), limit, || {
            path.exists().then_some(())
        });
    }

    /// Waits until nothing of any run is left on the host: no container, no directory, no secret.
    pub fn nothing_left(&self, launcher: &Launcher) {
        until_seen("the launcher to tidy up", TIDY, Duration::from_millis(200), || {
            let gone = self.containers().is_empty()
                && launcher.runs().is_empty()
                && entries(launcher.secrets_dir()).is_empty();
            gone.then_some(())
        });
    }
}

impl Default for Stand {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.podman.is_none() {
            docker::remove(&self.pool.id);
        }
    }
}

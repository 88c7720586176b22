//! The engines, and a hand on what runs in their containers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_launcher::engine::docker::Docker;
use gantry_launcher::engine::fake::{Fake, Happened, Program};
use gantry_launcher::engine::{Engine, Image, Limits, Mount, POOL_LABEL, Spec};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use ulid::Ulid;

use crate::own_podman::Podman;

/// The user that the image wants to be.
pub const USER: &str = "spacelift";
/// What the program of the containers exits with when it is asked to stop; 7 when it is let go.
pub const STOPPED: i64 = 5;

/// An engine and one container of it, which may be made or not.
pub trait Side {
    type Engine: Engine;

    /// The engine.
    fn engine(&self) -> Self::Engine;
    /// Another connection to the same engine.
    async fn again(&self) -> Self::Engine;
    /// The container. Its program goes on until it is let go or stopped.
    fn spec(&self) -> Spec;
    /// Waits until the program runs, and takes signals.
    async fn is_up(&mut self);
    /// Lets the program end.
    async fn let_go(&mut self);
    /// How often the program was run.
    fn ran(&self) -> usize;

    /// The names of all containers of this side.
    async fn all(&self) -> Vec<String> {
        let spec = self.spec();
        let pool = spec.labels[POOL_LABEL].clone();
        self.engine().list(&[(POOL_LABEL, pool)]).await.unwrap()
    }
}

fn spec(image: &str, directory: &Path) -> Spec {
    let id = Ulid::generate().to_string();
    Spec {
        name: format!("gantry-contract-{id}").to_lowercase(),
        image: image.to_owned(),
        labels: BTreeMap::from([
            (POOL_LABEL.to_owned(), id),
            ("gantry.run".to_owned(), "a run".to_owned()),
        ]),
        mounts: vec![Mount {
            source: directory.to_owned(),
            target: "/contract".to_owned(),
            is_read_only: false,
        }],
        entrypoint: "/contract/program".to_owned(),
        network: "none".to_owned(),
        runtime: None,
        groups: Vec::new(),
        stop_grace: Duration::from_secs(10),
        limits: Limits {
            memory: Some(256 << 20),
            nano_cpus: Some(900_000_000),
            processes: Some(64),
            shared_memory: 1 << 20,
        },
    }
}

/// The engine in memory.
pub struct FakeSide {
    engine: Fake,
    spec: Spec,
    _directory: TempDir,
}

struct Waits;

impl Program for Waits {
    fn stopped(&self, _: &Spec) -> Option<i64> {
        Some(STOPPED)
    }
}

impl FakeSide {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Fake::new(Waits, Duration::from_secs(30));
        let image = Image {
            user: USER.to_owned(),
            environment: vec!["PATH=/bin".to_owned()],
            ..Image::default()
        };
        engine.has_image("image:1", image);
        let spec = spec("image:1", directory.path());
        Self { engine, spec, _directory: directory }
    }
}

impl Side for FakeSide {
    type Engine = Fake;

    fn engine(&self) -> Fake {
        self.engine.clone()
    }

    async fn again(&self) -> Fake {
        self.engine.clone()
    }

    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    async fn is_up(&mut self) {}

    async fn let_go(&mut self) {
        self.engine.exit(&self.spec.name, 7);
    }

    fn ran(&self) -> usize {
        let history = self.engine.history(&self.spec.name);
        history.iter().filter(|happened| **happened == Happened::Started).count()
    }
}

/// An engine with Docker's API. What its container does goes through two pipes on a shared directory.
pub struct RealSide {
    engine: Docker,
    /// As `DOCKER_HOST` spells it.
    host: Option<String>,
    own: Option<Podman>,
    spec: Spec,
    up: Receiver,
    go: Sender,
    directory: TempDir,
}

/// Tells each of its runs, and when it takes signals; then it waits.
const PROGRAM: &str = "#!/bin/sh
trap 'exit 5' TERM
echo ran >> /contract/ran
echo up > /contract/up
(read line < /contract/go) & wait $!
exit 7
";

/// Makes an archive of a shell, and of somebody who uses it.
const SHELL: &str = r#"cd "$1"
mkdir -p image/bin image/etc
cp "$(command -v busybox)" image/bin/sh
echo 'spacelift:x:1983:1983::/:/bin/sh' > image/etc/passwd
tar -C image -cf image.tar bin etc"#; // starts: busybox, tar

impl RealSide {
    /// The Docker of this host.
    pub async fn docker() -> Self {
        let image = variable("GANTRY_E2E_IMAGE").unwrap_or("gantry-runner:local".to_owned());
        Self::new(variable("DOCKER_HOST"), None, &image).await
    }

    /// A Podman of the test's own, with an image of one program.
    pub async fn podman() -> Self {
        let podman = Podman::start();
        let files = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-euc", SHELL, "sh"]).arg(files.path()).status();
        assert!(made.unwrap().success(), "busybox-static and tar are there");
        let changes = [format!("USER {USER}"), "ENV PATH=/bin".to_owned()];
        let changes: Vec<_> = changes.iter().map(String::as_str).collect();
        podman.import(&files.path().join("image.tar"), &changes, "gantry-contract:1");
        Self::new(Some(podman.host()), Some(podman), "gantry-contract:1").await
    }

    async fn new(host: Option<String>, own: Option<Podman>, image: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(path.join("program"), PROGRAM).unwrap();
        fs::set_permissions(path.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        let (up, go) = (pipe(path, "up"), pipe(path, "go"));
        let mut options = OpenOptions::new();
        // Both ends, so that neither opening waits nor one run's end is the next one's.
        let options = options.read_write(true);
        Self {
            engine: connect(host.as_deref()).await,
            host,
            own,
            spec: spec(image, path),
            up: options.open_receiver(up).unwrap(),
            go: options.open_sender(go).unwrap(),
            directory,
        }
    }
}

impl Side for RealSide {
    type Engine = Docker;

    fn engine(&self) -> Docker {
        self.engine.clone()
    }

    async fn again(&self) -> Docker {
        connect(self.host.as_deref()).await
    }

    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    async fn is_up(&mut self) {
        let mut line = [0; 3];
        self.up.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"up\n");
    }

    async fn let_go(&mut self) {
        self.go.write_all(b"go\n").await.unwrap();
    }

    fn ran(&self) -> usize {
        let ran = fs::read_to_string(self.directory.path().join("ran")).unwrap_or_default();
        ran.lines().count()
    }
}

impl Drop for RealSide {
    fn drop(&mut self) {
        if self.own.is_some() {
            return; // It ends with everything that it has.
        }
        // Without a runtime: the test may be failing.
        let _ = Command::new("docker").args(["rm", "--force", &self.spec.name]).output();
    }
}

async fn connect(host: Option<&str>) -> Docker {
    Docker::connect(host).await.expect("the engine answers")
}

fn pipe(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    path
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok())
}

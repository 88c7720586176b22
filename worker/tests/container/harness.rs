//! What a launcher does for the worker binary, in the small: directories, image, container, reading.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_model::{Attempt, Epoch, Phase, RunId, Stage};
use gantry_spool::order::{FILE, Interrupt, Order, PhaseOrder};
use gantry_spool::{
    ANSWERS, Body, Event, Frame, Limits, Outcome, Position, Reader, Watch, WhenFull, lay_out,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The launcher, where the test may give files away: the very user and group of the phases.
pub const LAUNCHER: (u32, u32) = (1983, 1983);
/// The launcher's further group, as that of Docker's socket.
pub const FURTHER: u32 = 4343;

/// An order that runs one phase with this command.
pub fn order(command: &str) -> Order {
    orders(&[(Phase::Perform, command)])
}

/// An order that runs these phases.
pub fn orders(phases: &[(Phase, &str)]) -> Order {
    let phase = |(phase, command): &(Phase, &str)| PhaseOrder {
        phase: *phase,
        before: Vec::new(),
        command: (*command).to_owned(),
        tool: None,
        after: Vec::new(),
    };
    let run = RunId::from_ulid(ulid::Ulid::from_parts(1, 1));
    Order {
        version: Order::VERSION,
        attempt: Attempt { run, stage: Stage::Write, epoch: Epoch(1) },
        phases: phases.iter().map(phase).collect(),
        after_run: Vec::new(),
        after_run_on_success: true,
        final_state: "TF_VAR_spacelift_final_run_state".into(),
        environment: vec![("SECRET".into(), "hunter2-in-the-order".into())],
        path_end: None,
        carried: Vec::new(),
        keeps_environment: false,
        user: String::new(),
        may_be_root: false,
        groups: groups(),
        workspace: "/mnt/workspace".into(),
        directory: "/mnt/workspace/source".into(),
        run_timeout_ms: 60_000,
        grace_ms: 20_000,
        interrupt: Interrupt::Sigint,
        spool: Limits { quota: Limits::WRITE_QUOTA, when_full: WhenFull::Truncate },
        state: None,
        left_state: Some("errored.tfstate".into()),
        show_plan: None,
        show_outputs: None,
        show_limit_ms: 20_000,
        shell: "/bin/sh".into(),
    }
}

/// One stage: its directories, and its container once started.
pub struct Run {
    dir: tempfile::TempDir,
    name: String,
    container: Option<Child>,
    /// Whether the container may only read the order.
    pub order_is_read_only: bool,
    /// How much memory it gets.
    pub memory: &'static str,
}

impl Run {
    /// Lays out everything and starts the container.
    pub fn start(order: &Order) -> Self {
        let mut run = Self::lay_out(order);
        run.again();
        run
    }

    /// Lays out everything.
    pub fn lay_out(order: &Order) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gantry-worker-test-{}-{number}", std::process::id());
        let run = Self { dir, name, container: None, order_is_read_only: false, memory: "1g" };
        give(run.dir.path());
        for dir in ["in", "spool", "workspace", "workspace/source"] {
            fs::create_dir(run.dir.path().join(dir)).unwrap();
        }
        lay_out(&run.spool()).unwrap();
        for dir in ["in", "spool"] {
            let dir = run.dir.path().join(dir);
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
            give(&dir);
        }
        give(&run.spool().join(ANSWERS));
        run.write_in(FILE, &order.to_json().unwrap());
        run
    }

    /// Puts a file beside the order.
    pub fn write_in(&self, name: &str, content: &[u8]) {
        let path = self.order_dir().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        give(&path);
    }

    /// Puts a file into the source.
    pub fn write_source(&self, name: &str, content: &str) {
        fs::write(self.source().join(name), content).unwrap();
    }

    pub fn order_dir(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("workspace/source")
    }

    /// Starts the container.
    pub fn again(&mut self) {
        let mount = |host: &Path, container: &str| format!("{}:{container}", host.display());
        let read_only = if self.order_is_read_only { ":ro" } else { "" };
        let group = fs::metadata(self.spool())
            .map(|meta| std::os::unix::fs::MetadataExt::gid(&meta))
            .unwrap();
        let child = Command::new("docker")
            .args([
                "run",
                "--rm",
                "--name",
                &self.name,
                "--network",
                "none",
                "--log-driver",
                "none",
            ])
            .args(["--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID"])
            .args([
                "--cap-add",
                "KILL",
                "--cap-add",
                "CHOWN",
                "--security-opt",
                "no-new-privileges",
            ])
            .args(["--pids-limit", "512", "--user", "0:0", "--group-add", &group.to_string()])
            .args(["--memory", self.memory, "--oom-score-adj", "500"])
            .args(["--tmpfs", "/gantry:mode=0700,size=1m"])
            .args(["-v", &format!("{}:ro", mount(binary(), "/gantry/bin/gantry-worker"))])
            .args(["-v", &format!("{}{read_only}", mount(&self.order_dir(), "/gantry/in"))])
            .args(["-v", &mount(&self.spool(), "/gantry/spool")])
            .args(["-v", &mount(&self.dir.path().join("workspace"), "/mnt/workspace")])
            .args(["--entrypoint", "/gantry/bin/gantry-worker", image()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker answers: it made the image");
        self.container = Some(child);
    }

    /// Sends a signal to the container's PID 1.
    pub fn signal(&self, signal: &str) {
        let output =
            Command::new("docker").args(["kill", "-s", signal, &self.name]).output().unwrap();
        assert!(
            output.status.success(),
            "docker kill: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits for the end of the container: its exit code and what it said itself.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let mut container = self.container.take().expect("the container was started");
        let deadline = Instant::now() + PATIENCE;
        // The pipes end with the container; their reader cannot be told to give up, so the watch comes first.
        while container.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "the container does not end; its log:\n{}",
                self.log()
            );
            self.wait_for_change(Duration::from_millis(200));
        }
        let Output { status, stdout, stderr } = container.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&stdout), "", "all output belongs into the spool");
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Waits for the end, which is as it should be, and gives the outcome.
    pub fn outcome(&mut self) -> Outcome {
        let (code, said) = self.wait();
        assert_eq!((code, said.as_str()), (Some(0), ""), "log:\n{}", self.log());
        match self.events().pop() {
            Some(Event::Ended { outcome }) => outcome,
            other => panic!("the last frame is {other:?}"),
        }
    }

    /// Waits until the frames are as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self) {
            assert!(Instant::now() < deadline, "never came: {what}; log:\n{}", self.log());
            self.wait_for_change(Duration::from_millis(200));
        }
    }

    /// Waits until the log has a text.
    pub fn until_said(&self, text: &str) {
        self.until(text, |run| run.log().contains(text));
    }

    pub fn frames(&self) -> Vec<Frame> {
        let mut reader = Reader::open(&self.spool(), Position::START).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    pub fn events(&self) -> Vec<Event> {
        let event = |frame: Frame| match frame.body {
            Body::Event(event) => Some(event),
            Body::Output(_) => None,
        };
        self.frames().into_iter().filter_map(event).collect()
    }

    /// What all phases said.
    pub fn log(&self) -> String {
        self.logs().into_values().collect()
    }

    /// What each phase said.
    pub fn logs(&self) -> BTreeMap<Phase, String> {
        let mut logs = BTreeMap::<_, Vec<u8>>::new();
        for frame in self.frames() {
            if let Body::Output(bytes) = frame.body {
                logs.entry(frame.phase.expect("output is a phase's")).or_default().extend(bytes);
            }
        }
        logs.into_iter().map(|(phase, log)| (phase, String::from_utf8(log).unwrap())).collect()
    }

    /// Waits for a change of the spool.
    pub fn wait_for_change(&self, at_most: Duration) {
        let watch = Watch::new(&self.spool()).unwrap();
        let at_most = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&at_most)).unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(mut container) = self.container.take() {
            let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
            let _ = container.wait();
        }
    }
}

/// Those of the launcher, as it would say them.
fn groups() -> Vec<u32> {
    let own = rustix::process::getegid().as_raw();
    if rustix::process::geteuid().is_root() { vec![LAUNCHER.1, FURTHER] } else { vec![own] }
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(LAUNCHER.0), Some(LAUNCHER.1)).unwrap();
    }
}

/// The static binary, as it is embedded in the launcher.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("GANTRY_WORKER_BINARY") {
            return PathBuf::from(path);
        }
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("worker");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--profile", "worker", "-p", "gantry-worker"])
            .args(["--target", &target, "--target-dir"])
            .arg(&target_dir)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .unwrap();
        assert!(status.success(), "the static worker binary does not build");
        target_dir.join(target).join("worker/gantry-worker")
    })
}

/// An image of busybox and Terraform, made where no registry answers.
fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let engine =
            Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
        let answers = engine.is_ok_and(|output| output.status.success());
        assert!(
            answers,
            "these tests need a Docker engine: `cargo xtask test` starts one, or install docker.io"
        );
        let busybox = Path::new("/bin/busybox");
        assert!(
            busybox.exists(),
            "these tests need busybox-static: apt-get install busybox-static"
        );
        let terraform = terraform();
        let stamp = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            let modified = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            format!("{}-{}", meta.len(), modified.as_secs())
        };
        let tag = format!("gantry-worker-test:2-{}-{}", stamp(busybox), stamp(&terraform));
        let found = Command::new("docker").args(["image", "inspect", &tag]).output().unwrap();
        if !found.status.success() {
            make_image(busybox, &terraform, &tag);
        }
        tag
    })
}

fn terraform() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|dir| ["terraform", "tofu"].map(|name| dir.join(name)))
        .find(|path| path.is_file())
        .expect("these tests need terraform or tofu on the PATH: install one of them")
}

fn make_image(busybox: &Path, terraform: &Path, tag: &str) {
    let root = tempfile::tempdir().unwrap();
    for dir in ["bin", "etc", "tmp", "home/spacelift", "mnt", "gantry"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    // A tmpfs takes over the mode of what it is mounted on.
    fs::set_permissions(root.path().join("gantry"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(root.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.path().join("home/spacelift"), fs::Permissions::from_mode(0o777))
        .unwrap();
    fs::copy(busybox, root.path().join("bin/busybox")).unwrap();
    fs::copy(terraform, root.path().join("bin/terraform")).unwrap();
    // starts: busybox
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox")
    {
        symlink("busybox", root.path().join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.path().join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nspacelift:x:1983:1983::/home/spacelift:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\nspacelift:x:1983:\nstaff:x:50:\n")
        .unwrap();
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-c", "-C"])
        .arg(root.path())
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut import = Command::new("docker")
        .args(["import", "-c", "ENV PATH=/bin FROM_IMAGE=yes", "-", tag])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::copy(tar.stdout.as_mut().unwrap(), import.stdin.as_mut().unwrap()).unwrap();
    drop(import.stdin.take());
    assert!(
        tar.wait().unwrap().success() && import.wait().unwrap().success(),
        "the image cannot be made"
    );
    let probe = Command::new("docker")
        .args(["run", "--rm", "--network", "none", tag, "/bin/true"])
        .status();
    assert!(
        probe.unwrap().success(),
        "the image does not run: is /bin/busybox the static one (busybox-static)?"
    );
}

/// The content of a side file.
pub fn side_file(run: &Run, file: &gantry_spool::SideFile) -> String {
    let mut text = String::new();
    let mut source = gantry_spool::open_side_file(&run.spool(), file.name, 1 << 20).unwrap();
    source.read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.len() as u64, gantry_spool::sha256(text.as_bytes())),
        (file.size, file.sha256.clone())
    );
    text
}

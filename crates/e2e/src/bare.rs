//! A machine on which nobody has set anything up, to follow a page on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::config::Config;
use crate::docker::save;
use crate::engine::as_root;
use crate::program::{Ended, finished};

/// How long everything may take that is done on it.
const LIMIT: Duration = Duration::from_secs(240);
const STAND_INS: [(&str, &str); 6] = [
    ("begin", include_str!("../machine/begin")),
    ("cargo", include_str!("../machine/cargo")),
    ("end", include_str!("../machine/end")),
    ("registered", include_str!("../machine/registered")),
    ("scp", include_str!("../machine/scp")),
    ("systemctl", include_str!("../machine/systemctl")),
];

/// This machine's files, of which every change is thrown away, with processes, mounts, a network and an engine of its
/// own. What it has no room for has a stand-in: systemd, the way to other hosts, the compiler.
#[derive(Debug)]
pub struct BareMachine {
    dir: TempDir,
}

impl BareMachine {
    /// One that has the clone of the repository, built.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let dir = tempfile::Builder::new().prefix("gantry-bare-").tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let machine = Self { dir };
        fs::create_dir_all(machine.given("stand-ins")).expect("the directory is ours");
        for (name, text) in STAND_INS {
            machine.program(&format!("stand-ins/{name}"), text);
        }
        machine.program("enter", include_str!("../machine/enter"));
        let clone = machine.given("clone");
        let built = clone.join("target/release");
        fs::create_dir_all(&built).expect("the directory is ours");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
        let examples = root.expect("this crate lies in crates/").join("examples");
        for (from, to) in
            [(config.gantry(), &built), (config.launcher(), &built), (examples, &clone)]
        {
            let copied = Command::new("cp").arg("-r").args([&from, to]).status();
            assert!(copied.expect("cp is on PATH").success(), "cp {}", from.display());
        }
        save(&config.image, &machine.given("image.tar"));
        machine
    }

    /// Does what a script says in the clone, as root, on the machine that is called by these names.
    #[must_use]
    pub fn follow(&self, config: &Config, names: &[&str], script: &str) -> Ended {
        let image = &config.image;
        let script =
            format!("#!/bin/sh\nset -eu\nexport IMAGE='{image}'\ncd /given/clone\n{script}");
        self.program("follow", &script);
        let mut command = as_root("unshare"); // starts: busybox, dockerd
        command.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]);
        command.arg(self.given("enter")).arg(self.dir.path()).args(names);
        finished("the machine", LIMIT, &mut command)
    }

    fn given(&self, name: &str) -> PathBuf {
        self.dir.path().join("given").join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.given(name);
        fs::write(&path, text).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
}

impl Drop for BareMachine {
    fn drop(&mut self) {
        // Its files are root's. Its mounts went with it.
        let _ = as_root("rm").arg("-rf").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

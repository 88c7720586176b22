//! A server of its own for a test.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// `gantry` with an environment of its own.
pub fn gantry(folder: &Path) -> Command {
    alone(folder, env!("CARGO_BIN_EXE_gantry"))
}

/// A program with an environment of its own, in which `gantry` is logged in where `folder` says.
pub fn alone(folder: &Path, program: &str) -> Command {
    // starts: gantry, sh
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("GANTRY_CONFIG_DIR", folder.join("config"))
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// A server; it is killed when dropped.
pub struct Server {
    pub folder: tempfile::TempDir,
    child: Child,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Self::start_in(folder.path());
        Self { folder, child }
    }

    fn start_in(folder: &Path) -> Child {
        let mut child =
            Self::command(folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: api https://127.0.0.1:"), "{line:?}");
        child
    }

    /// The command that starts it.
    pub fn command(folder: &Path) -> Command {
        let mut command = gantry(folder);
        command.args(["server", "--data", "data"]);
        for listener in ["--listen", "--mqtt-listen", "--objects-listen"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command
    }

    /// Kills it and starts it again on the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::start_in(self.folder.path());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        gantry(self.folder.path()).args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; answers its JSON.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--output", "json"], arguments].concat());
        json(&output, arguments)
    }

    /// Runs a command that must fail; answers its exit code and what it says.
    pub fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded: {said}");
        (output.status.code().unwrap(), said)
    }
}

/// The JSON that a command printed.
pub fn json(output: &Output, arguments: &[&str]) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

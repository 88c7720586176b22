//! Builds the programs with cargo, whose own progress is shown.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    context::Context,
    process::Process,
    tools::{self, Need},
};

/// Which way the programs are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// What is shipped, and measured.
    Release,
    /// As [`Profile::Dev`], together with the tests, so that these find everything built.
    DevWithTests,
}

const WORKSPACE: [&str; 4] = ["build", "--workspace", "--locked", "--bins"];
const SERVER: [&str; 5] = ["build", "--release", "--locked", "--package", "gantry"];
/// Optimized as one piece: it waits on many hosts, so 0.4 MB of memory are worth a minute of building.
const LAUNCHER: [&str; 9] = [
    "rustc",
    "--release",
    "--locked",
    "--package",
    "gantry-launcher",
    "--bin",
    "gantry-launcher",
    "--",
    "-Clto=fat",
];

/// The programs.
pub struct Programs {
    /// The folder that holds them all.
    pub folder: PathBuf,
    /// `gantry`.
    pub gantry: PathBuf,
    /// `gantry-launcher`.
    pub launcher: PathBuf,
    /// The static worker binary that is embedded in it.
    pub worker: PathBuf,
}

/// Builds the programs.
pub fn programs(cx: &Context, profile: Profile) -> Result<Programs> {
    tools::ensure(cx, &tools::BUILD.iter().collect::<Vec<&Need>>())?;
    let mut built = Built::default();
    match profile {
        Profile::Dev => built.add(cx, &[&WORKSPACE[..], &["--exclude", "xtask"]].concat())?,
        Profile::DevWithTests => built.add(cx, &[&WORKSPACE[..], &["--tests"]].concat())?,
        // Each by itself: what the server alone needs of a library they share would be in the launcher too.
        Profile::Release => {
            built.add(cx, &SERVER)?;
            built.add(cx, &LAUNCHER)?;
        }
    }
    let find = |name: &str| {
        let is_it = |path: &&PathBuf| path.file_name().is_some_and(|file| file == name);
        built.programs.iter().find(is_it).cloned().with_context(|| format!("cargo built no {name}"))
    };
    let (gantry, launcher) = (find("gantry")?, find("gantry-launcher")?);
    let folder = gantry.parent().map(Path::to_path_buf).context("a program has no folder")?;
    let worker =
        built.worker.context("the launcher's build script put the worker binary nowhere")?;
    Ok(Programs { folder, gantry, launcher, worker })
}

/// What cargo says it built, or found built.
#[derive(Default)]
struct Built {
    programs: Vec<PathBuf>,
    worker: Option<PathBuf>,
}

impl Built {
    /// Runs cargo, and keeps what it says.
    fn add(&mut self, cx: &Context, arguments: &[&str]) -> Result<()> {
        cx.say.detail(&format!("cargo {}", arguments.join(" ")));
        let mut command = cx.config.cargo();
        // Before what is meant for rustc.
        let (first, rest) = arguments.split_at(1);
        command.args(first).arg("--message-format=json-render-diagnostics").args(rest);
        let start = || Process::spawn_reading("cargo build", &mut command);
        let ((process, stdout), ticket) = cx
            .undo
            .make("stop cargo", start, |(process, _)| process.stopping(Duration::from_secs(5)))?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what cargo says")?;
            // Lines that are no message come from build scripts.
            let Ok(message) = serde_json::from_str(&line) else { continue };
            self.programs.extend(executable(&message));
            self.worker = worker(&message).or(self.worker.take());
        }
        let status = process.wait()?;
        cx.undo.done(ticket);
        if status.success() { Ok(()) } else { bail!("cargo build failed: see its output above") }
    }
}

/// The program that a message of cargo's names.
fn executable(message: &Value) -> Option<PathBuf> {
    let is_program =
        message.get("target")?.get("kind")?.as_array()?.iter().any(|kind| kind == "bin");
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    (is_program && !is_test)
        .then(|| message.get("executable")?.as_str().map(PathBuf::from))
        .flatten()
}

/// Where the launcher's build script put the worker binary.
fn worker(message: &Value) -> Option<PathBuf> {
    let is_it = message.get("reason")?.as_str()? == "build-script-executed"
        && message.get("package_id")?.as_str()?.contains("gantry-launcher");
    is_it
        .then(|| Some(Path::new(message.get("out_dir")?.as_str()?).join("gantry-worker")))
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_are_told_from_tests_and_libraries() {
        let message = |kind: &str, test: bool| json!({ "target": { "kind": [kind] }, "profile": { "test": test }, "executable": "/t/debug/gantry" });
        assert_eq!(executable(&message("bin", false)), Some(PathBuf::from("/t/debug/gantry")));
        assert_eq!(executable(&message("bin", true)), None);
        assert_eq!(executable(&message("lib", false)), None);
    }

    #[test]
    fn the_worker_binary_is_where_the_build_script_says() {
        let message = |package: &str| {
            let id = format!("path+file:///g/{package}@0.1.0");
            json!({ "reason": "build-script-executed", "package_id": id, "out_dir": "/t/out" })
        };
        assert_eq!(
            worker(&message("launcher#gantry-launcher")),
            Some(PathBuf::from("/t/out/gantry-worker"))
        );
        assert_eq!(worker(&message("openssl-sys")), None);
    }
}

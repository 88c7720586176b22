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

/// The programs.
pub struct Programs {
    /// The folder that holds them all.
    pub folder: PathBuf,
    /// `gantry`.
    pub gantry: PathBuf,
    /// `gantry-launcher`.
    pub launcher: PathBuf,
}

/// Builds every program of the workspace.
pub fn programs(cx: &Context, profile: Profile) -> Result<Programs> {
    tools::ensure(cx, &tools::BUILD.iter().collect::<Vec<&Need>>())?;
    let mut arguments = vec!["build", "--workspace", "--locked", "--bins", "--exclude", "xtask"];
    match profile {
        Profile::Dev => {}
        Profile::Release => arguments.push("--release"),
        Profile::DevWithTests => {
            arguments = vec!["build", "--workspace", "--locked", "--bins", "--tests"];
        }
    }
    cx.say.detail(&format!("cargo {}", arguments.join(" ")));
    let executables = build(cx, &arguments)?;
    let find = |name: &str| {
        executables
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .cloned()
            .with_context(|| format!("cargo built no program {name}"))
    };
    let (gantry, launcher) = (find("gantry")?, find("gantry-launcher")?);
    let folder = gantry.parent().map(Path::to_path_buf).context("a program has no folder")?;
    Ok(Programs { folder, gantry, launcher })
}

/// Runs cargo and gives the programs that it names, whether it had to build them or not.
fn build(cx: &Context, arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cx.config.cargo();
    command.args(arguments).arg("--message-format=json-render-diagnostics");
    let (process, stdout) = Process::spawn_reading("cargo build", &mut command)?;
    let ticket = cx.undo.later_stop(&process, Duration::from_secs(5));
    let mut executables = Vec::new();
    for line in BufReader::new(stdout).lines() {
        executables.extend(executable(&line.context("cannot read what cargo says")?));
    }
    let status = process.wait()?;
    cx.undo.done(ticket);
    if status.success() {
        Ok(executables)
    } else {
        bail!("cargo build failed: see its output above")
    }
}

/// The program that a message of cargo's names.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_program =
        message.get("target")?.get("kind")?.as_array()?.iter().any(|kind| kind == "bin");
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    (is_program && !is_test)
        .then(|| message.get("executable")?.as_str().map(PathBuf::from))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_tests_and_libraries() {
        let message = |kind: &str, test: bool| {
            format!(
                r#"{{"target":{{"kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"/t/debug/gantry"}}"#
            )
        };
        assert_eq!(executable(&message("bin", false)), Some(PathBuf::from("/t/debug/gantry")));
        assert_eq!(executable(&message("bin", true)), None);
        assert_eq!(executable(&message("lib", false)), None);
        assert_eq!(executable("Compiling gantry"), None);
    }
}

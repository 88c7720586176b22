//! README's demo, as a person sees it. Without `--yes` and with nobody to ask, so it changes nothing on the machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A demo whose files all lie in a directory of the test.
struct Demo {
    folder: tempfile::TempDir,
    child: Child,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { folder, child }
    }

    /// Reads on until a line has `words`; gives all that was read.
    fn shows(&mut self, words: &str) -> String {
        let mut shown = String::new();
        let mut lines = BufReader::with_capacity(1, self.child.stdout.as_mut().unwrap());
        while !shown.contains(words) {
            let read = lines.read_line(&mut shown).unwrap();
            assert!(read > 0, "it ended before {words:?}: {shown}");
        }
        shown
    }

    /// What it says up to its end, and its exit code.
    fn end(&mut self) -> (String, Option<i32>) {
        let mut shown = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut shown).unwrap();
        (shown, self.child.wait().unwrap().code())
    }

    fn assert_nothing_is_left(&self) {
        let below = self.folder.path();
        let files: Vec<_> = fs::read_dir(below).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(files.is_empty(), "files are left: {files:?}");
        let processes = processes_in(below);
        assert!(processes.is_empty(), "processes are left: {processes:?}");
        let containers = containers_of(below);
        assert!(
            !containers.contains(&*below.to_string_lossy()),
            "containers are left: {containers}"
        );
    }
}

/// Programs that were called with a path below `folder`, or work there.
fn processes_in(folder: &Path) -> Vec<PathBuf> {
    let is_there = |process: &PathBuf| {
        let called = fs::read(process.join("cmdline")).unwrap_or_default();
        let called = String::from_utf8_lossy(&called).contains(&*folder.to_string_lossy());
        called || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.filter(is_there).collect()
}

/// What all containers mount of `folder`.
fn containers_of(folder: &Path) -> String {
    let filter = format!("volume={}", folder.display());
    let docker = ["ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.Mounts}}", "--filter"];
    let output = Command::new("docker").args(docker).arg(filter).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_is_shown_from_plan_to_apply_and_nothing_is_left() {
    let mut demo = Demo::start(&[]);
    let (shown, code) = demo.end();
    assert_eq!(code, Some(0), "{shown}");
    for words in [
        "waits at UNCONFIRMED",
        "the password is *****",
        "Plan: 5 to add",
        "Apply complete! Resources: 5 added",
        "machines = [\"machine-0\",\"machine-1\",\"machine-2\"]",
        "nothing to change: FINISHED without an apply",
        "done in ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    let apply = shown.split("] Confirmed").nth(1).unwrap().split("] Containers").next().unwrap();
    assert!(apply.contains("CONFIRMED: ") && !apply.contains("PLANNING"), "{apply}");
    demo.assert_nothing_is_left();
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for place in ["] Control plane", "] Launcher", "PLANNING", "APPLYING"] {
        let mut demo = Demo::start(&[]);
        let before = demo.shows(place);
        kill_process(Pid::from_child(&demo.child), Signal::TERM).unwrap();
        let (after, code) = demo.end();
        assert_eq!(code, Some(128 + 15), "{place}: {before}{after}");
        assert!(after.contains("interrupted: "), "{place}: {after}");
        assert!(!after.contains("warning: could not"), "{place}: {after}");
        demo.assert_nothing_is_left();
    }
}

#[test]
fn a_kept_demo_says_how_it_is_ended() {
    let mut demo = Demo::start(&["--keep"]);
    let (shown, code) = demo.end();
    assert_eq!(code, Some(0), "{shown}");
    let said = |end: &str| shown.lines().map(str::trim).find(|line| line.ends_with(end)).unwrap();
    let list = said(" run list terraform-stack");
    let listed = Command::new("sh").args(["-c", list]).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("FINISHED"), "{shown}");
    let stop = said("ends and removes all of it").split("    ").next().unwrap();
    let stopped = Command::new("sh").args(["-c", stop]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    demo.assert_nothing_is_left();
}

//! The operator's command.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::program::{Ended, finished};
use crate::wait::until_seen;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long to look away between two looks at a run.
const PAUSE: Duration = Duration::from_millis(200);
/// What `gantry` exits with when the server does not answer.
const UNREACHABLE: i32 = 4;

/// `gantry`, logged in to one server.
#[derive(Debug, Clone)]
pub struct Cli {
    pub(crate) config: Config,
    /// Where it keeps its credentials.
    pub(crate) home: PathBuf,
    /// The directory that it is called in.
    pub(crate) dir: PathBuf,
}

impl Cli {
    /// The command with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = gantry_stand::operator(&self.config.gantry(), &self.home, &self.dir);
        command.args(arguments);
        command
    }

    /// Runs it to its end, however that is.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        finished("gantry", LIMIT, &mut self.command(arguments))
    }

    /// Runs it; it must succeed.
    #[must_use]
    pub fn done(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(0), "gantry {}: {}", arguments.join(" "), ended.complaint());
        ended
    }

    /// Runs it with `--output json`; it must succeed.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let ended = self.done(&[arguments, &["--output", "json"]].concat());
        parse(&ended, arguments)
    }

    /// The same; none while the server does not answer.
    #[must_use]
    pub fn ask_if_there(&self, arguments: &[&str]) -> Option<Value> {
        let ended = self.run(&[arguments, &["--output", "json"]].concat());
        if ended.code == Some(UNREACHABLE) {
            return None;
        }
        assert_eq!(ended.code, Some(0), "gantry {}: {}", arguments.join(" "), ended.complaint());
        Some(parse(&ended, arguments))
    }

    /// Triggers a run and gives its id.
    #[must_use]
    pub fn trigger(&self, stack: &str) -> String {
        id(&self.ask(&["run", "trigger", stack]))
    }

    /// Triggers a proposed run and gives its id.
    #[must_use]
    pub fn propose(&self, stack: &str) -> String {
        id(&self.ask(&["run", "trigger", stack, "--type", "proposed"]))
    }

    /// Confirms a run.
    pub fn confirm(&self, run: &str) {
        let _ = self.ask(&["run", "confirm", run]);
    }

    /// What is known of a run.
    #[must_use]
    pub fn show(&self, run: &str) -> RunView {
        RunView(self.ask(&["run", "show", run]))
    }

    /// Waits until a run is in this state; fails when it ends in another one.
    #[expect(clippy::must_use_candidate, reason = "some tests only wait")]
    pub fn reaches(&self, run: &str, state: &str, limit: Duration) -> RunView {
        let mut last = String::new();
        let view = until_seen(&format!("run {run} to be {state}"), limit, PAUSE, || {
            let view = RunView(self.ask_if_there(&["run", "show", run])?);
            if view.state() != last {
                view.state().clone_into(&mut last);
            }
            (view.state() == state || view.is_over()).then_some(view)
        });
        if view.state() != state {
            let log = self.log(run);
            panic!(
                "run {run} is {} and not {state}: {:?}\n{}",
                view.state(),
                view.note(),
                String::from_utf8_lossy(&log)
            );
        }
        view
    }

    /// Waits until a run is over, however.
    #[expect(clippy::must_use_candidate, reason = "some tests only wait")]
    pub fn over(&self, run: &str, limit: Duration) -> RunView {
        until_seen(&format!("the end of run {run}"), limit, PAUSE, || {
            let view = RunView(self.ask_if_there(&["run", "show", run])?);
            view.is_over().then_some(view)
        })
    }

    /// A run's whole log, as far as it is stored.
    #[must_use]
    pub fn log(&self, run: &str) -> Vec<u8> {
        self.done(&["run", "logs", run]).stdout
    }
}

fn parse(ended: &Ended, arguments: &[&str]) -> Value {
    let text = ended.text();
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("gantry {}: {error} in {text}", arguments.join(" ")))
}

fn id(value: &Value) -> String {
    value["id"].as_str().expect("a run has an id").to_owned()
}

/// What `gantry run show` says.
#[derive(Debug, Clone)]
pub struct RunView(pub Value);

impl RunView {
    /// Its present state.
    #[must_use]
    pub fn state(&self) -> &str {
        self.0["state"].as_str().expect("a run has a state")
    }

    /// What is noted about it.
    #[must_use]
    pub fn note(&self) -> &str {
        self.0["note"].as_str().unwrap_or_default()
    }

    /// Nothing follows its state.
    #[must_use]
    pub fn is_over(&self) -> bool {
        ["FINISHED", "FAILED", "STOPPED", "CANCELED", "DISCARDED", "SKIPPED"]
            .contains(&self.state())
    }

    /// The states that it was in, oldest first.
    #[must_use]
    pub fn states(&self) -> Vec<&str> {
        let history = self.0["history"].as_array().expect("a run has a history");
        history.iter().filter_map(|change| change["state"].as_str()).collect()
    }

    /// Its attempts, oldest first.
    #[must_use]
    pub fn attempts(&self) -> &[Value] {
        self.0["attempts"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// What it changes: resources to add, change, delete.
    #[must_use]
    pub fn delta(&self) -> [u64; 3] {
        ["add", "change", "delete"].map(|what| self.0["delta"][what].as_u64().unwrap_or(u64::MAX))
    }

    /// One of its outputs.
    #[must_use]
    pub fn output(&self, name: &str) -> &Value {
        &self.0["outputs"][name]
    }
}

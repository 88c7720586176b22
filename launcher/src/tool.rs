//! The tools that stages run.
//!
//! A [`Description`] is all that the rest of the launcher knows of a tool: data, and a few functions of a
//! stage's spec. Each tool has a file here and nothing elsewhere, so another one is a constant more.

mod bounded;
mod number;
mod outputs;
pub mod terraform;

use std::io::Read;
use std::path::{Path, PathBuf};

use gantry_model::{Phase, RunType};
use gantry_protocol::message::Delta;
use gantry_protocol::spec::{PhaseSpec, Spec};
use gantry_spool::order::{Interrupt, PhaseOrder, ToolOrder};

pub use outputs::{Outputs, in_messages, read_outputs};

/// The directory in the container with the programs that the host offers, if it offers any.
pub const HOST_PROGRAMS: &str = "/opt/gantry/tool";

/// A tool, described.
#[derive(Debug)]
pub struct Description {
    /// What policies call it.
    pub name: &'static str,
    /// The signal by which it is asked to leave. It gets one.
    pub interrupt: fn(&Spec) -> Interrupt,
    /// The variables that its phases find beside those of host and stack.
    pub variables: fn(&Spec) -> Vec<(String, String)>,
    /// The variable in which `after_run` hooks find how the run ended.
    pub final_state: &'static str,
    /// Its own command for a phase, as people know it; none if it has none.
    pub command: fn(&Spec, Phase) -> Option<&'static str>,
    /// How it runs a phase; none for a command that is run as it is.
    pub run: fn(&Job<'_>, &PhaseSpec) -> Result<Option<ToolOrder>, UnfitSource>,
    /// Refuses a source that it must not be run on.
    pub check_source: fn(&Job<'_>) -> Result<(), UnfitSource>,
    /// The shell command that shows the plan.
    pub show_plan: fn() -> String,
    /// Reads what `show_plan` showed.
    pub read_plan: fn(&Spec, &mut dyn Read) -> Result<Planned, serde_json::Error>,
    /// The shell command that shows the outputs, for [`read_outputs`].
    pub show_outputs: fn() -> String,
    /// Where outputs are that are too large to be shown.
    pub outputs_elsewhere: &'static str,
    /// How it keeps its state; none if we keep nothing for it.
    pub state: Option<StateProtocol>,
}

/// How a tool has its state kept by the worker binary, or fails to.
#[derive(Debug)]
pub struct StateProtocol {
    /// The variable that holds the state's password.
    pub password: &'static str,
    /// The file that the tool leaves in its directory when nobody took a state.
    pub left: &'static str,
    /// How a person finds such a state, or one in the spool, in the project's directory, and brings it in.
    pub bring_in: fn(&Spec, &Path) -> String,
}

/// A stage's work for its tool.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// What is to be done.
    pub spec: &'a Spec,
    /// Where the source lies on this host.
    pub source: &'a Path,
    /// Whether the host lets the source's own way of keeping a state be replaced.
    pub replaces_backend: bool,
}

/// Why a source is not one to run a tool on.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct UnfitSource {
    problem: String,
    source: Option<std::io::Error>,
}

impl UnfitSource {
    fn new(problem: String) -> Self {
        Self { problem, source: None }
    }

    fn unusable(path: PathBuf) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self {
            problem: format!(
                "cannot use {}: check that the stack's project root is a directory of its source",
                path.display()
            ),
            source: Some(source),
        }
    }
}

/// What a plan would change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planned {
    /// Counted; none if it does not count.
    pub delta: Option<Delta>,
    /// Whether there is anything at all to apply.
    pub has_changes: bool,
}

/// The tool of a stage.
#[must_use]
pub const fn of(_spec: &Spec) -> &'static Description {
    &terraform::TERRAFORM
}

impl Description {
    /// A phase as people know it, without how its tool is run.
    #[must_use]
    pub fn shown(&self, spec: &Spec, phase: &PhaseSpec) -> PhaseOrder {
        let own = || (self.command)(spec, phase.phase).unwrap_or("true").to_owned();
        PhaseOrder {
            phase: phase.phase,
            before: phase.before.clone(),
            command: phase.command.clone().unwrap_or_else(own),
            tool: None,
            after: phase.after.clone(),
        }
    }

    /// A phase as it is run.
    ///
    /// # Errors
    /// When its source cannot be looked at, or is not one to run it on.
    pub fn phase(&self, job: &Job<'_>, phase: &PhaseSpec) -> Result<PhaseOrder, UnfitSource> {
        let tool = (self.run)(job, phase)?;
        Ok(PhaseOrder { tool, ..self.shown(job.spec, phase) })
    }
}

/// What phases may know of their run.
fn facts(spec: &Spec) -> [(&'static str, String); 9] {
    let about = &spec.about;
    [
        ("run_id", spec.attempt.run.to_string()),
        ("stack_id", spec.stack.to_string()),
        ("run_type", run_type(spec.run_type).to_owned()),
        ("run_trigger", about.triggered_by.clone().unwrap_or_default()),
        ("commit_sha", about.commit.hash.clone()),
        ("commit_branch", about.commit.branch.clone()),
        ("stack_labels", about.labels.join(",")),
        ("project_root", spec.project_root.clone()),
        ("workspace_root", "/mnt/workspace".to_owned()),
    ]
}

/// The run's type as phases and policies spell it.
#[must_use]
pub const fn run_type(run_type: RunType) -> &'static str {
    match run_type {
        RunType::Proposed => "PROPOSED",
        RunType::Tracked => "TRACKED",
        RunType::Task => "TASK",
        RunType::Testing => "TESTING",
        RunType::Destroy => "DESTROY",
    }
}

//! The tools that stages run.
//!
//! A [`Description`] is all that the rest of the launcher knows of a tool: data, and a few functions of a
//! stage's spec. Each tool has a file here and nothing elsewhere, so another one is a constant more.

mod bounded;
mod custom;
mod number;
mod outputs;
mod terraform;

use std::io::Read;
use std::path::{Path, PathBuf};

use gantry_model::{Phase, RunType};
use gantry_protocol::message::Delta;
use gantry_protocol::spec::{PhaseSpec, Spec, Tool};
use gantry_spool::order::{Interrupt, PhaseOrder, ToolOrder};

pub use outputs::{Outputs, in_messages, read_outputs};
pub use terraform::IMAGE as DEFAULT_IMAGE;

/// The directory in the container with the programs that the host offers, if it offers any.
pub const HOST_PROGRAMS: &str = "/opt/gantry/tool";

/// The directory in the container that is saved between the two halves of a run.
pub const WORKSPACE: &str = "/mnt/workspace";

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
    /// Whether a plan that cannot be read fails: nothing else tells whether there is something to apply.
    pub must_read_plan: bool,
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
pub const fn of(spec: &Spec) -> &'static Description {
    match spec.tool {
        Tool::Terraform => &terraform::TERRAFORM,
        Tool::Custom(_) => &custom::CUSTOM,
    }
}

impl Description {
    /// Refuses what it cannot do.
    ///
    /// # Errors
    /// In words, when a phase has no command or nobody keeps the state.
    pub fn check(&self, spec: &Spec) -> Result<(), String> {
        if self.state.is_none() && spec.state.is_some() {
            return Err(format!("the spec has a state to keep, and a {} tool has none", self.name));
        }
        let may_be_empty = |phase| match phase {
            Phase::Initialize | Phase::Perform => true,
            Phase::Plan | Phase::Apply | Phase::Destroy => false,
        };
        let has_none = |phase: &&PhaseSpec| {
            let own = (self.command)(spec, phase.phase);
            phase.command.is_none() && own.is_none() && !may_be_empty(phase.phase)
        };
        match spec.phases.iter().find(has_none) {
            None => Ok(()),
            Some(PhaseSpec { phase, .. }) => Err(format!(
                "the stack names no command for {phase}: see `gantry stack set --help`"
            )),
        }
    }

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
        ("workspace_root", WORKSPACE.to_owned()),
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use gantry_model::{Attempt, Epoch, RunId, RunState, Stage};
    use gantry_protocol::spec::{About, Commit, CustomTool, StateSpec};

    use super::*;

    fn spec(tool: Tool, run_type: RunType, commands: &[(Phase, Option<&str>)]) -> Spec {
        let phase = |(phase, command): &(Phase, Option<&str>)| PhaseSpec {
            phase: *phase,
            before: vec!["echo before".to_owned()],
            command: command.map(str::to_owned),
            after: Vec::new(),
        };
        let run = RunId::from_ulid(ulid::Ulid::from_parts(1, 1));
        Spec {
            attempt: Attempt { run, stage: Stage::Read, epoch: Epoch(1) },
            stack: "network".parse().unwrap(),
            run_type,
            image: None,
            tool,
            phases: commands.iter().map(phase).collect(),
            later: Vec::new(),
            after_run: Vec::new(),
            environment: Vec::new(),
            secrets: None,
            source: None,
            project_root: "prod".to_owned(),
            workspace: None,
            state: None,
            autodeploy: false,
            about: About {
                state: RunState::Preparing,
                created_ms: 0,
                updated_ms: 0,
                triggered_by: None,
                user_provided_metadata: Vec::new(),
                commit: Commit::default(),
                labels: vec!["a".to_owned(), "b".to_owned()],
                stack_name: "Network".to_owned(),
            },
        }
    }

    const CUSTOM: Tool =
        Tool::Custom(CustomTool { changes_exit_code: Some(3), interrupt: Interrupt::Sigterm });

    fn order(spec: &Spec, number: usize) -> PhaseOrder {
        let source = Path::new("/none");
        let job = Job { spec, source, replaces_backend: false };
        of(spec).phase(&job, &spec.phases[number]).unwrap()
    }

    /// Each in its own words: nothing of one stands in the other's phases.
    #[test]
    fn each_tool_tells_phases_of_their_run() {
        let terraform = ["TF_VAR_spacelift_stack_labels", "TF_VAR_spacelift_run_type", "GANTRY_"];
        let custom = ["GANTRY_STACK_LABELS", "GANTRY_RUN_TYPE", "TF_"];
        for (tool, [labels, run_type, foreign]) in [(Tool::Terraform, terraform), (CUSTOM, custom)]
        {
            let spec = spec(tool, RunType::Destroy, &[]);
            let variables = (of(&spec).variables)(&spec);
            let has = |name: &str, value: &str| {
                variables.iter().any(|(known, is)| known == name && is == value)
            };
            assert!(has(labels, "a,b"), "{variables:?}");
            assert!(has(run_type, "DESTROY"), "{variables:?}");
            assert!(variables.iter().all(|(name, _)| !name.starts_with(foreign)));
            assert!(!of(&spec).final_state.starts_with(foreign));
        }
    }

    #[test]
    fn each_tool_is_interrupted_in_its_own_way() {
        let interrupt = |tool| {
            let spec = spec(tool, RunType::Tracked, &[]);
            (of(&spec).interrupt)(&spec)
        };
        assert_eq!(interrupt(Tool::Terraform), Interrupt::Sigint);
        assert_eq!(interrupt(Tool::Custom(CustomTool::default())), Interrupt::Sigint);
        assert_eq!(interrupt(CUSTOM), Interrupt::Sigterm);
    }

    #[test]
    fn a_phase_without_a_command_and_a_state_that_nobody_keeps_are_refused() {
        let all = [(Phase::Initialize, None), (Phase::Plan, Some("./plan")), (Phase::Apply, None)];
        let check = |tool, commands| {
            let spec = spec(tool, RunType::Tracked, commands);
            of(&spec).check(&spec)
        };
        assert!(check(CUSTOM, &all[..2]).is_ok());
        assert!(check(CUSTOM, &all).unwrap_err().contains("no command for apply"));
        assert!(check(Tool::Terraform, &all).is_ok());
        let mut kept = spec(CUSTOM, RunType::Tracked, &[]);
        kept.state = Some(StateSpec { current: None, recipients: Vec::new(), can_write: true });
        assert!(of(&kept).check(&kept).unwrap_err().contains("a custom tool has none"));
    }

    #[test]
    fn a_phase_is_shown_as_people_know_it_and_run_as_its_tool_does() {
        let commands = [(Phase::Plan, None), (Phase::Destroy, None), (Phase::Perform, Some("ls"))];
        let terraform = spec(Tool::Terraform, RunType::Destroy, &commands);
        let plan = order(&terraform, 0);
        assert!(
            plan.command.ends_with("-destroy")
                && plan.tool.is_some_and(|it| it.changes_code == Some(2))
        );
        let destroy = order(&terraform, 1);
        assert!(
            destroy.command.ends_with("gantry.tfplan"),
            "what was planned: {}",
            destroy.command
        );
        let task = order(&terraform, 2);
        assert_eq!((task.command.as_str(), task.tool), ("ls", None));

        let commands = [
            (Phase::Initialize, None),
            (Phase::Plan, Some("./plan")),
            (Phase::Apply, Some("./apply")),
            (Phase::Perform, Some("ls")),
        ];
        let custom = spec(CUSTOM, RunType::Tracked, &commands);
        let codes: Vec<_> =
            (0..4).map(|it| order(&custom, it).tool.map(|it| it.changes_code)).collect();
        assert_eq!(
            codes,
            [None, Some(Some(3)), Some(None), None],
            "only a plan has something to say"
        );
        assert_eq!(order(&custom, 1).command, "./plan");
    }

    /// As it stands in a phase: whatever the command does, the phase's shell goes on and has its code.
    #[test]
    fn a_custom_command_is_a_script_of_its_own() {
        for (command, code, said) in [
            ("exit 3", "3", ""),
            ("echo \"it's\"; false; echo never", "1", "it's\n"),
            ("cd /; export A=1; trap 'echo bye' EXIT", "0", "bye\n"),
            ("cat <<E\na 'b'\nE", "0", "a 'b'\n"),
            ("no-such-program 2>/dev/null", "refused 0", ""),
        ] {
            let spec = spec(CUSTOM, RunType::Tracked, &[(Phase::Apply, Some(command))]);
            let script = order(&spec, 0).tool.unwrap().script;
            let phase = format!(
                "gantry_refuse() {{ echo refused $1; exit; }}\nended=0\n{{\n{script}\n}} || ended=$?\n\
                 [ \"$PWD\" = /tmp ] && [ -z \"$A\" ] && echo $ended"
            );
            // starts: sh
            let output = Command::new("/bin/sh").args(["-c", &phase]).current_dir("/tmp").output();
            let output = String::from_utf8(output.unwrap().stdout).unwrap();
            assert_eq!(output, format!("{said}{code}\n"), "{command}");
        }
    }
}

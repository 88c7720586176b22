//! A stack's own commands, without a tool that is known here.
//!
//! Each command is a shell script of its own that ends at its first failure. What the plan comes to and which
//! outputs there are it may write into two files, whose paths stand in variables. There is no state to keep,
//! and nothing of the source is refused: what an apply needs lies in the saved workspace or is made again
//! by its command.

use std::io::Read;
use std::path::Path;

use gantry_model::{Interrupt, Phase};
use gantry_protocol::message::Delta;
use gantry_protocol::spec::{CustomTool, PhaseSpec, Spec, Tool};
use gantry_spool::order::ToolOrder;
use serde::Deserialize;
use serde::de::Error as _;

use super::{Description, Job, Planned, WORKSPACE, facts};

/// Where a plan says what it comes to, within the workspace: no source has anything there.
const PLAN_FILE: &str = "gantry-plan.json";
/// Where an apply leaves its outputs.
const OUTPUTS_FILE: &str = "gantry-outputs.json";
/// The longest plan file, in bytes.
const MAX_PLAN_FILE: u64 = 64 << 10;
/// The exit code of a shell that does not find a program.
const NOT_FOUND: &str = "127";
/// What the script gives up with, by number.
const REFUSALS: [&str; 1] = [
    "a program was not found (exit code 127), the log says which: use an image that has it, or set GANTRY_TOOL_DIR on the launcher to a directory with it",
];

/// The description.
pub const CUSTOM: Description = Description {
    name: "custom",
    interrupt: |spec| settings(spec).interrupt,
    variables,
    final_state: "GANTRY_FINAL_RUN_STATE",
    command: |_, _| None,
    run: |job, phase| Ok(run(job, phase)),
    check_source: |_| Ok(()),
    show_plan: || show(PLAN_FILE, ":"),
    read_plan: |spec, plan| read_plan(settings(spec), plan),
    must_read_plan: true,
    show_outputs: || show(OUTPUTS_FILE, "echo '{}'"),
    outputs_elsewhere: "keep large values elsewhere, and let the output say where",
    state: None,
};

fn settings(spec: &Spec) -> CustomTool {
    if let Tool::Custom(settings) = spec.tool { settings } else { CustomTool::default() }
}

fn variables(spec: &Spec) -> Vec<(String, String)> {
    let facts = facts(spec).map(|(name, value)| (format!("GANTRY_{}", name.to_uppercase()), value));
    let files = [("GANTRY_PLAN_FILE", PLAN_FILE), ("GANTRY_OUTPUTS_FILE", OUTPUTS_FILE)];
    let files = files.map(|(name, file)| (name.to_owned(), place(file)));
    facts.into_iter().chain(files).collect()
}

fn place(file: &str) -> String {
    Path::new(WORKSPACE).join(file).to_string_lossy().into_owned()
}

/// An initialization without a command has nothing to do; a task's command is run in the shell of its hooks.
fn run(job: &Job<'_>, phase: &PhaseSpec) -> Option<ToolOrder> {
    let (Some(command), Phase::Initialize | Phase::Plan | Phase::Apply | Phase::Destroy) =
        (&phase.command, phase.phase)
    else {
        return None;
    };
    let settings = settings(job.spec);
    let says_changes = |code: &u8| phase.phase == Phase::Plan && *code != 0;
    Some(ToolOrder {
        script: script(command, settings.interrupt),
        changes_code: settings.changes_exit_code.filter(says_changes).map(i32::from),
        refusals: REFUSALS.map(str::to_owned).to_vec(),
    })
}

/// The shell of its own has the trap that the phase's shell has: without it, it would die of the interrupt and
/// leave behind what it runs.
fn script(command: &str, interrupt: Interrupt) -> String {
    let signal = match interrupt {
        Interrupt::Sigint => "INT",
        Interrupt::Sigterm => "TERM",
    };
    let own = format!("trap 'exit $(($? ? $? : 130))' {signal}\n{command}\n");
    let own = own.replace('\'', "'\\''");
    format!(
        "gantry_code=0\n/bin/sh -ec '{own}' || gantry_code=$?\n[ \"$gantry_code\" != {NOT_FOUND} ] || gantry_refuse 0\n(exit \"$gantry_code\")"
    )
}

fn show(file: &str, otherwise: &str) -> String {
    let path = place(file);
    format!("if [ -e {path} ]; then cat {path}; else {otherwise}; fi")
}

/// What a plan file may say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PlanFile {
    add: u64,
    change: u64,
    delete: u64,
    has_changes: Option<bool>,
}

/// A plan that says nothing, by no file and no exit code, may have anything to apply.
fn read_plan(settings: CustomTool, plan: &mut dyn Read) -> Result<Planned, serde_json::Error> {
    let mut text = String::new();
    plan.take(MAX_PLAN_FILE + 1).read_to_string(&mut text).map_err(serde_json::Error::custom)?;
    if text.len() as u64 > MAX_PLAN_FILE {
        return Err(serde_json::Error::custom("it is longer than 64 KiB"));
    }
    if text.trim().is_empty() {
        return Ok(Planned { delta: None, has_changes: settings.changes_exit_code.is_none() });
    }
    // A list of nothing would pass for an object of nothing.
    if !text.trim_start().starts_with('{') {
        return Err(serde_json::Error::custom("it is not a JSON object"));
    }
    let PlanFile { add, change, delete, has_changes } = serde_json::from_str(&text)?;
    let is_counted = add.max(change).max(delete) > 0;
    Ok(Planned {
        delta: Some(Delta { add, change, delete, ..Delta::default() }),
        has_changes: has_changes.unwrap_or(is_counted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(code: Option<u8>, text: &str) -> Result<Planned, serde_json::Error> {
        let settings = CustomTool { changes_exit_code: code, ..CustomTool::default() };
        read_plan(settings, &mut text.as_bytes())
    }

    #[test]
    fn a_plan_file_counts_and_decides() {
        for (text, counted, has_changes) in [
            (r#"{"add":2,"change":1}"#, [2, 1, 0], true),
            (r#"{"delete":1}"#, [0, 0, 1], true),
            ("{}\n", [0, 0, 0], false),
            (r#"{"has_changes":true}"#, [0, 0, 0], true),
            (r#"{"add":0,"change":0,"delete":0}"#, [0, 0, 0], false),
            (r#"{"change":1,"has_changes":false}"#, [0, 1, 0], false),
        ] {
            let [add, change, delete] = counted;
            let delta = Some(Delta { add, change, delete, ..Delta::default() });
            assert_eq!(read(None, text).unwrap(), Planned { delta, has_changes }, "{text}");
        }
    }

    /// A person looks at what nobody can tell.
    #[test]
    fn a_plan_that_says_nothing_may_change_something() {
        assert_eq!(read(None, "").unwrap(), Planned { delta: None, has_changes: true });
        assert_eq!(read(Some(2), "\n").unwrap(), Planned { delta: None, has_changes: false });
    }

    #[test]
    fn a_plan_file_of_another_form_is_none() {
        let long = format!("{{}}{}", " ".repeat(64 << 10));
        for text in ["nothing", "[]", r#"{"ad":1}"#, r#"{"add":-1}"#, r#"{"add":"1"}"#, &long] {
            assert!(read(None, text).is_err(), "{text}");
        }
    }
}

//! The commands of the phases: as people know them, and as they are run.
//!
//! The tool is run by a small shell script, because only the container knows which tool its image has,
//! and what hooks made of the source.

use gantry_model::{Phase, RunType};
use gantry_protocol::spec::{PhaseSpec, Spec};
use gantry_spool::order::ToolOrder;

use super::source;
use crate::tool::{Job, UnfitSource};

/// The script's functions.
const FUNCTIONS: &str = include_str!("tool.sh");
/// Exit code of a plan that has something to apply.
const HAS_CHANGES: i32 = 2;
/// What the script gives up with, by number.
const REFUSALS: [&str; 5] = [
    "the image has neither terraform nor tofu on its PATH: use an image that has one of them, or set GANTRY_TOOL_DIR on the launcher to a directory with one",
    "the tool ended well and left no gantry.tfplan: look for what calls the tool with other arguments, in the image or in TF_CLI_ARGS_plan",
    "the source seems to declare a backend in a file that this launcher cannot read, and this stack's state is kept by Gantry: take the backend out of the source, or set GANTRY_REPLACE_BACKEND=true on the launcher to have it replaced",
    "after init the backend is not the one by which Gantry keeps this stack's state: look for a backend that hooks or an override file bring, or for -backend=false in TF_CLI_ARGS_init",
    "this stack's state is left to a backend of the source's own, and init found none that outlives the container, so the state would be lost: declare a backend in the source, or make the stack without --own-backend, so that Gantry keeps its state",
];

/// The command of a phase, as people know it; none if the tool has none for it.
pub(super) const fn known(spec: &Spec, phase: Phase) -> Option<&'static str> {
    Some(match (phase, spec.run_type) {
        (Phase::Initialize, _) => "terraform init -input=false -reconfigure",
        (Phase::Plan, RunType::Destroy) => {
            "terraform plan -input=false -detailed-exitcode -out=gantry.tfplan -destroy"
        }
        (Phase::Plan, _) => "terraform plan -input=false -detailed-exitcode -out=gantry.tfplan",
        // What was planned and confirmed, and nothing else.
        (Phase::Apply, _) | (Phase::Destroy, RunType::Destroy) => {
            "terraform apply -input=false -auto-approve gantry.tfplan"
        }
        (Phase::Destroy, _) => "terraform destroy -input=false -auto-approve",
        // A task brings its own command.
        (Phase::Perform, _) => return None,
    })
}

/// How the tool is run in a phase; none if it has nothing to do in it.
///
/// # Errors
/// When a source that it is initialized in is not one to run it on.
pub(super) fn run(job: &Job<'_>, phase: &PhaseSpec) -> Result<Option<ToolOrder>, UnfitSource> {
    let phase = match phase {
        PhaseSpec { command: Some(_), .. } | PhaseSpec { phase: Phase::Perform, .. } => {
            return Ok(None);
        }
        PhaseSpec { phase, .. } => *phase,
    };
    let keeps_state = job.spec.state.is_some();
    let destroys = matches!(job.spec.run_type, RunType::Destroy);
    let backend = if destroys { "always" } else { "beside" };
    let call = match phase {
        Phase::Initialize => {
            let is_in_doubt = keeps_state && source::look(job)?;
            let doubt = if is_in_doubt { "doubt" } else { "" };
            format!("gantry_init {backend} \"{doubt}\"")
        }
        Phase::Plan if destroys => format!("gantry_plan {backend} -destroy"),
        Phase::Plan => format!("gantry_plan {backend}"),
        Phase::Destroy if !destroys => "gantry_destroy".to_owned(),
        Phase::Apply | Phase::Destroy | Phase::Perform => "gantry_apply".to_owned(),
    };
    let keeps = if keeps_state { "yes" } else { "" };
    Ok(Some(ToolOrder {
        script: format!("{FUNCTIONS}\ngantry_keeps={keeps}\n{call}"),
        changes_code: (phase == Phase::Plan).then_some(HAS_CHANGES),
        refusals: REFUSALS.map(str::to_owned).to_vec(),
    }))
}

/// Shows the plan as JSON.
pub(super) fn show_plan() -> String {
    show("show -json gantry.tfplan")
}

/// Shows the outputs as JSON.
pub(super) fn show_outputs() -> String {
    show("output -json")
}

fn show(what: &str) -> String {
    format!("{FUNCTIONS}\ngantry_refuse() {{ exit 127; }}\ngantry_show {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::HOST_PROGRAMS;

    #[test]
    fn everything_that_the_script_gives_up_with_has_a_sentence() {
        let numbers: Vec<usize> = FUNCTIONS
            .split("gantry_refuse ")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(numbers, [0, 2, 3, 4, 1]);
        assert!(numbers.iter().all(|number| *number < REFUSALS.len()));
        assert!(FUNCTIONS.contains(&format!("{HOST_PROGRAMS}/*)")));
    }
}

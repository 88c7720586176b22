//! The commands of the phases: as people know them, and as they are run.
//!
//! The tool is run by a small shell script, because only the container knows which tool its image has,
//! and what hooks made of the source.

use gantry_model::{Phase, RunType};
use gantry_spool::order::ToolOrder;

/// The script's functions.
const FUNCTIONS: &str = include_str!("tool.sh");
/// Where the host's tool is in the container, if it offers one.
pub const TOOL_DIR: &str = "/opt/gantry/tool";
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

/// What the commands of a stage depend on.
#[derive(Debug, Clone, Copy)]
pub struct Commands {
    /// What the run is for.
    pub run_type: RunType,
    /// Whether the stack's state is ours to keep.
    pub keeps_state: bool,
    /// Whether a file of the source may declare a backend and only the tool can tell.
    pub is_in_doubt: bool,
}

impl Commands {
    /// The command of a phase, as people know it; none if the tool has none for it.
    #[must_use]
    pub const fn known(self, phase: Phase) -> Option<&'static str> {
        Some(match (phase, self.run_type) {
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
    #[must_use]
    pub fn tool(self, phase: Phase) -> Option<ToolOrder> {
        let destroys = matches!(self.run_type, RunType::Destroy);
        let backend = if destroys { "always" } else { "beside" };
        let doubt = if self.is_in_doubt { "doubt" } else { "" };
        let call = match phase {
            Phase::Initialize => format!("gantry_init {backend} \"{doubt}\""),
            Phase::Plan if destroys => format!("gantry_plan {backend} -destroy"),
            Phase::Plan => format!("gantry_plan {backend}"),
            Phase::Destroy if !destroys => "gantry_destroy".to_owned(),
            Phase::Apply | Phase::Destroy => "gantry_apply".to_owned(),
            Phase::Perform => return None,
        };
        let keeps = if self.keeps_state { "yes" } else { "" };
        Some(ToolOrder {
            script: format!("{FUNCTIONS}\ngantry_keeps={keeps}\n{call}"),
            changes_code: (phase == Phase::Plan).then_some(HAS_CHANGES),
            refusals: REFUSALS.map(str::to_owned).to_vec(),
        })
    }
}

/// Shows the plan as JSON.
#[must_use]
pub fn show_plan() -> String {
    show("show -json gantry.tfplan")
}

/// Shows the outputs as JSON.
#[must_use]
pub fn show_outputs() -> String {
    show("output -json")
}

fn show(what: &str) -> String {
    format!("{FUNCTIONS}\ngantry_refuse() {{ exit 127; }}\ngantry_show {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_script_gives_up_with_has_a_sentence() {
        let numbers: Vec<usize> = FUNCTIONS
            .split("gantry_refuse ")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(numbers, [0, 2, 3, 4, 1]);
        assert!(numbers.iter().all(|number| *number < REFUSALS.len()));
        assert!(FUNCTIONS.contains(&format!("{TOOL_DIR}/*)")));
    }
}

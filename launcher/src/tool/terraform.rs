//! Terraform, or `OpenTofu`: whichever the image has.
//!
//! The worker binary answers its state requests, so the source must not name a backend of its
//! own. A generated override file holds an empty `http` backend and nothing else; address and
//! password are variables of the stage and stand in no file. It is made in the container just before
//! the tool runs, and only beside a configuration: alone it would be one, and one without resources.

mod blocks;
mod command;
mod plan;
mod source;

use std::path::Path;

use gantry_protocol::spec::Spec;
use gantry_spool::order::Interrupt;

use super::{Description, StateProtocol, facts};

/// The image that has it, unless a stack or the host names another.
pub const IMAGE: &str = "public.ecr.aws/spacelift/runner-terraform:latest";

/// The description.
pub const TERRAFORM: Description = Description {
    name: "terraform",
    // It finishes what it does and writes its state. A second one, or SIGTERM, makes it leave at once.
    interrupt: |_| Interrupt::Sigint,
    variables,
    final_state: "TF_VAR_spacelift_final_run_state",
    command: command::known,
    run: command::run,
    check_source: source::check,
    show_plan: command::show_plan,
    read_plan: |_, plan| plan::read_plan(plan),
    must_read_plan: false,
    show_outputs: command::show_outputs,
    outputs_elsewhere: "`terraform output` in a task shows them, and the state has them all",
    state: Some(StateProtocol { password: "TF_HTTP_PASSWORD", left: "errored.tfstate", bring_in }),
};

fn variables(spec: &Spec) -> Vec<(String, String)> {
    let fixed = [("TF_IN_AUTOMATION", "true"), ("TF_INPUT", "0")];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let facts = facts(spec).map(|(name, value)| (format!("TF_VAR_spacelift_{name}"), value));
    fixed.into_iter().chain(facts).collect()
}

fn bring_in(spec: &Spec, project: &Path) -> String {
    let command = if spec.state.is_some() {
        "`terraform state push -force` in a task, as `gantry run task --help` says"
    } else {
        "`terraform state push FILE`"
    };
    format!(
        "look for errored.tfstate in {}, else for a file that ends in .tfstate in spool; lift the stack's lock, bring it in with {command} before any other run",
        project.display()
    )
}

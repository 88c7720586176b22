//! The tool of a stack: how it is named here, and how the API names it.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// What the API is asked for to show a tool.
pub(super) const FIELDS: &str = "vendorConfig{__typename,... on StackConfigVendorCustom{initialize,plan,apply,destroy,changesExitCode,interrupt}}";

/// What the phases of a stack run.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tool: what the phases run")]
pub(super) struct Arguments {
    /// `terraform` for the image's `terraform` or `tofu`, or `custom` for the commands that follow
    /// [default: terraform]
    #[arg(long, value_name = "TOOL")]
    tool: Option<Kind>,
    /// Of a custom tool, the command of initialize; nothing is done without it
    #[arg(long, value_name = "CMD")]
    init_command: Option<String>,
    /// Of a custom tool, the command of plan. Counts that it writes to `$GANTRY_PLAN_FILE`,
    /// as {"add":1,"change":0,"delete":0}, say whether there is something to apply
    #[arg(long, value_name = "CMD")]
    plan_command: Option<String>,
    /// Of a custom tool, the command of apply. Outputs that it writes to `$GANTRY_OUTPUTS_FILE`,
    /// as {"name":{"value":1,"sensitive":false}}, are kept
    #[arg(long, value_name = "CMD")]
    apply_command: Option<String>,
    /// Of a custom tool, the command of destroy; nothing can be destroyed without it
    #[arg(long, value_name = "CMD")]
    destroy_command: Option<String>,
    /// Of a custom tool, the exit code, from 1 to 125, of a plan that has something to apply; 0 then says that
    /// it has not. Without it, and without a plan file, every plan has something to apply
    #[arg(long, value_name = "CODE")]
    changes_exit_code: Option<u8>,
    /// Of a custom tool, the one signal by which its commands are asked to leave [default: SIGINT]
    #[arg(long, value_name = "SIGNAL")]
    interrupt: Option<Interrupt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Terraform,
    Custom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Interrupt {
    Sigint,
    Sigterm,
}

impl Arguments {
    /// Whether it is a tool without a state.
    pub(super) fn is_custom(&self) -> bool {
        self.tool == Some(Kind::Custom)
    }

    /// The tool as the API takes it, what is not given as it is at present; none if nothing is given.
    pub(super) fn vendor_config(&self, present: Option<&Tool>) -> Result<Option<Value>, Failure> {
        let Self { tool, init_command, plan_command, apply_command, destroy_command, .. } = self;
        let present = match present {
            Some(Tool::Custom(commands)) => Some(commands),
            Some(Tool::Other) | None => None,
        };
        let commands = [init_command, plan_command, apply_command, destroy_command];
        let is_any = commands.iter().any(|command| command.is_some())
            || self.changes_exit_code.is_some()
            || self.interrupt.is_some();
        match tool {
            Some(Kind::Terraform) if is_any => {
                return Err(Failure::usage("commands of the phases belong to a custom tool")
                    .next("leave them out, or give --tool custom"));
            }
            Some(Kind::Terraform) => return Ok(Some(json!({ "terraform": {} }))),
            None if is_any && present.is_none() => {
                return Err(Failure::usage("the stack's tool has its own commands")
                    .next("give --tool custom to have yours run in their place"));
            }
            None if !is_any => return Ok(None),
            Some(Kind::Custom) | None => {}
        }
        let given = |given: &Option<String>, present: Option<&String>| {
            given.as_ref().or(present).filter(|command| !command.is_empty()).cloned()
        };
        let needed = |command: Option<String>, what: &str| {
            command.ok_or_else(|| {
                Failure::usage(format!("a custom tool needs a command for {what}"))
                    .next(format!("give --{what}-command"))
            })
        };
        let plan = given(plan_command, present.map(|it| &it.plan));
        let apply = given(apply_command, present.map(|it| &it.apply));
        let code = self.changes_exit_code.map(i64::from);
        let interrupt = self.interrupt.map(|signal| match signal {
            Interrupt::Sigint => "SIGINT".to_owned(),
            Interrupt::Sigterm => "SIGTERM".to_owned(),
        });
        Ok(Some(json!({ "custom": {
            "initialize": given(init_command, present.and_then(|it| it.initialize.as_ref())),
            "plan": needed(plan, "plan")?,
            "apply": needed(apply, "apply")?,
            "destroy": given(destroy_command, present.and_then(|it| it.destroy.as_ref())),
            "changesExitCode": code.or(present.and_then(|it| it.changes_exit_code)),
            "interrupt": interrupt.or(present.map(|it| it.interrupt.clone())),
        } })))
    }
}

/// A tool, as the API shows it.
#[derive(Deserialize)]
#[serde(tag = "__typename")]
pub(super) enum Tool {
    #[serde(rename = "StackConfigVendorCustom")]
    Custom(Commands),
    #[serde(other)]
    Other,
}

/// The commands of a custom tool.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Commands {
    initialize: Option<String>,
    plan: String,
    apply: String,
    destroy: Option<String>,
    changes_exit_code: Option<i64>,
    interrupt: String,
}

impl Tool {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Other => json!({ "kind": "terraform" }),
            Self::Custom(commands) => json!({
                "kind": "custom",
                "init_command": commands.initialize,
                "plan_command": commands.plan,
                "apply_command": commands.apply,
                "destroy_command": commands.destroy,
                "changes_exit_code": commands.changes_exit_code,
                "interrupt": commands.interrupt,
            }),
        }
    }

    /// One line.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Other => "Terraform or OpenTofu, as the image has it".to_owned(),
            Self::Custom(Commands { changes_exit_code, interrupt, .. }) => {
                let changes = changes_exit_code
                    .map(|code| format!(", exit code {code} of plan for changes"))
                    .unwrap_or_default();
                format!("custom, interrupted by {interrupt}{changes}")
            }
        }
    }

    /// The stack's own command of each phase that has one.
    pub(super) fn commands(&self) -> Vec<[String; 2]> {
        let Self::Custom(commands) = self else { return Vec::new() };
        let all = [
            ("init", commands.initialize.as_ref()),
            ("plan", Some(&commands.plan)),
            ("apply", Some(&commands.apply)),
            ("destroy", commands.destroy.as_ref()),
        ];
        let given = all.into_iter().filter_map(|(phase, command)| Some((phase, command?)));
        given.map(|(phase, command)| [phase.to_owned(), command.clone()]).collect()
    }

    /// Whether it has a state that can be kept.
    pub(super) const fn has_state(&self) -> bool {
        matches!(self, Self::Other)
    }
}

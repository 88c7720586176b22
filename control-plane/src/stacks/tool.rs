//! The tool of a stack, as people set it.

use gantry_model::{Phase, RunType};
use gantry_protocol::spec;

use crate::check;
use crate::error::OperationError;
use crate::store::stacks::{Commands, Tool};

/// The longest command of a phase, in bytes: the launcher hands it to a shell as an argument.
const MAX_COMMAND: usize = 32 * 1024;

impl Tool {
    /// Whether it has a state that can be kept here.
    #[must_use]
    pub const fn has_state(&self) -> bool {
        match self {
            Self::Terraform => true,
            Self::Custom(_) => false,
        }
    }

    /// The command that the stack names for a phase; none if the tool has its own, or nothing to do.
    pub(crate) const fn command(&self, phase: Phase) -> Option<&String> {
        match (self, phase) {
            (Self::Custom(commands), Phase::Initialize) => commands.initialize.as_ref(),
            (Self::Custom(commands), Phase::Plan) => Some(&commands.plan),
            (Self::Custom(commands), Phase::Apply) => Some(&commands.apply),
            (Self::Custom(commands), Phase::Destroy) => commands.destroy.as_ref(),
            (Self::Custom(_), Phase::Perform) | (Self::Terraform, _) => None,
        }
    }

    /// What launchers are told of it.
    pub(crate) const fn spec(&self) -> spec::Tool {
        match self {
            Self::Terraform => spec::Tool::Terraform,
            Self::Custom(commands) => spec::Tool::Custom(spec::CustomTool {
                changes_exit_code: commands.changes_exit_code,
                interrupt: commands.interrupt,
            }),
        }
    }

    /// Whether it can do a run of this type.
    pub(crate) fn check_run(&self, run_type: RunType) -> Result<(), OperationError> {
        let destroys = match run_type {
            RunType::Destroy | RunType::Testing => true,
            RunType::Proposed | RunType::Tracked | RunType::Task => false,
        };
        match self {
            Self::Custom(Commands { destroy: None, .. }) if destroys => {
                Err(OperationError::Conflict(format!(
                    "the stack names no command for destroy, which a {run_type} run needs: set it with \
                     `gantry stack set --destroy-command`"
                )))
            }
            Self::Custom(_) | Self::Terraform => Ok(()),
        }
    }

    /// What people can set of it.
    pub(super) fn check(&self) -> Result<(), OperationError> {
        let Self::Custom(commands) = self else { return Ok(()) };
        let Commands { initialize, plan, apply, destroy, changes_exit_code, interrupt: _ } =
            commands;
        let needed = [("plan", plan), ("apply", apply)];
        if let Some((phase, _)) = needed.iter().find(|(_, command)| command.trim().is_empty()) {
            let problem = format!("a custom tool needs a command for {phase}: give it");
            return Err(OperationError::invalid("tool", problem));
        }
        let all = [initialize.as_ref(), Some(plan), Some(apply), destroy.as_ref()];
        for command in all.into_iter().flatten() {
            check::text("command", command, 1, MAX_COMMAND)?;
        }
        match changes_exit_code {
            // A shell that does not find a program, and those above it, say something else.
            Some(0 | 126..) => Err(OperationError::invalid(
                "changes exit code",
                "a plan that has something to apply says so by a code from 1 to 125",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(change: impl FnOnce(&mut Commands)) -> Tool {
        let (plan, apply) = ("./plan".to_owned(), "./apply".to_owned());
        let mut commands = Commands { plan, apply, ..Commands::default() };
        change(&mut commands);
        Tool::Custom(commands)
    }

    #[test]
    fn a_custom_tool_needs_a_plan_and_an_apply() {
        assert!(custom(|_| {}).check().is_ok());
        for change in [
            (|commands| commands.plan = " \n".to_owned()) as fn(&mut Commands),
            |commands| commands.apply.clear(),
            |commands| commands.changes_exit_code = Some(0),
            |commands| commands.changes_exit_code = Some(127),
            |commands| commands.destroy = Some("x".repeat(MAX_COMMAND + 1)),
        ] {
            assert!(custom(change).check().is_err());
        }
    }

    #[test]
    fn what_destroys_needs_a_command_for_it() {
        assert!(custom(|_| {}).check_run(RunType::Destroy).is_err());
        assert!(custom(|_| {}).check_run(RunType::Tracked).is_ok());
        let whole = custom(|commands| commands.destroy = Some("./destroy".to_owned()));
        assert!(
            whole.check_run(RunType::Destroy).is_ok() && whole.check_run(RunType::Testing).is_ok()
        );
    }
}

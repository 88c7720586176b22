//! A run that ended badly, once more.

use gantry_model::{RunId, RunState};

use super::change::{FreshRun, create_run};
use super::{Run, Runs};
use crate::error::OperationError;
use crate::stacks::read_stack_with_secrets;
use crate::store::load_run;

impl Run {
    /// Whether it can be run once more.
    #[must_use]
    pub const fn can_retry(&self) -> bool {
        self.state.is_terminal() && !matches!(self.state, RunState::Finished)
    }
}

impl Runs {
    /// Creates a run like one that did not end well: of the same kind, with the same source and command.
    ///
    /// # Errors
    /// When there is no such run, it is not over or ended well, or its stack has another pool by now.
    pub async fn retry(&self, actor: &str, run: RunId) -> Result<Run, OperationError> {
        let old = self.run(run).await?;
        if !old.can_retry() {
            let next =
                if old.state.is_terminal() { "trigger a new one" } else { "wait until it is over" };
            return Err(OperationError::Conflict(format!(
                "cannot retry a run that is {}: {next}",
                old.state
            )));
        }
        let mut unit = self.begin().await?;
        let Some(old) = load_run(unit.conn(), run).await? else {
            return Err(OperationError::not_found("run", run));
        };
        let (stack, _) = read_stack_with_secrets(unit.conn(), &old.stack).await?;
        stack.tool.check_run(old.lifecycle.run_type())?;
        if stack.pool != old.pool {
            return Err(OperationError::Conflict(format!(
                "the source of run {run} is sealed to the pool that stack {} had then: upload the source \
                 again and trigger a new run",
                old.stack
            )));
        }
        let new = RunId::from_ulid(self.ids().ulid(unit.now()));
        let fresh = FreshRun {
            id: new,
            run_type: old.lifecycle.run_type(),
            stack,
            source: old.source,
            command: old.command,
            metadata: old.metadata,
        };
        create_run(&mut unit, actor, fresh).await?;
        let detail = format!("retries run {run}");
        unit.audit(actor, "run.trigger", &format!("run {new}"), &detail).await?;
        unit.commit().await?;
        self.run(new).await
    }
}

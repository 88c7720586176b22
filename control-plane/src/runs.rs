//! Runs: triggered, watched, confirmed, discarded and stopped by people.

pub(crate) mod change;
mod list;
mod retry;

use crate::core::Core;
use crate::stacks::Stacks;
use gantry_model::{
    Epoch, PoolId, RunId, RunLifecycle, RunState, RunType, StackId, Stage, Stopping, Timestamp,
    WorkerId,
};
use gantry_protocol::message::{Cancel, Delta, FromControlPlane, Output, StopMode};
use std::ops::Deref;
use tokio::sync::watch;

use self::change::{FreshRun, create_run, save_run};
pub use crate::store::attempts::AttemptRecord;
pub use crate::store::runs::{HistoryEntry, RunsKind, RunsPage};

use crate::check;
use crate::error::OperationError;
use crate::sources::StackSource;
use crate::stacks::read_stack_with_secrets;
use crate::store::attempts::list_attempts;
use crate::store::outputs::list_outputs;
use crate::store::runs::{find_run_with_source, list_history, note_who_stops};
use crate::store::stacks::find_lock;
use crate::store::{RunRow, load_run};

/// The most metadata of a run, in texts and bytes.
const MAX_METADATA: (usize, usize) = (64, 16 * 1024);

/// A run that someone wants.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its stack.
    pub stack: StackId,
    /// What it is for.
    pub run_type: RunType,
    /// The command of a task; none otherwise.
    pub command: Option<String>,
    /// What clients attach to it.
    pub metadata: Vec<String>,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its stack.
    pub stack: StackId,
    /// The pool that runs it.
    pub pool: PoolId,
    /// What it is for.
    pub run_type: RunType,
    /// Where it is.
    pub state: RunState,
    /// The stage that it is in or waits for.
    pub stage: Stage,
    /// Its newest epoch.
    pub epoch: Epoch,
    /// The command of a task.
    pub command: Option<String>,
    /// Who or what triggered it.
    pub triggered_by: String,
    /// What clients attached to it.
    pub metadata: Vec<String>,
    /// The source that it uses.
    pub source: StackSource,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The worker that was asked or is the owner.
    pub worker: Option<WorkerId>,
    /// Who wants it stopped.
    pub stop_by: Option<String>,
    /// Why it is in its state, for people.
    pub note: Option<String>,
    /// Whether its outcome is unknown.
    pub is_unknown: bool,
    /// Whether its plan found something to change; none before that is known.
    pub has_changes: Option<bool>,
    /// What its plan would change.
    pub delta: Option<Delta>,
    /// The stack's outputs after it.
    pub outputs: Vec<Output>,
}

/// The runs of stacks. Clones are the same.
#[derive(Clone)]
pub struct Runs {
    core: Core,
    stacks: Stacks,
}

impl Deref for Runs {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Runs {
    pub(crate) fn new(core: Core, stacks: Stacks) -> Self {
        Self { core, stacks }
    }

    /// Creates a run of the stack's newest source.
    ///
    /// # Errors
    /// When there is no such stack, it has no source, or something given is not acceptable.
    pub async fn trigger(&self, actor: &str, new: NewRun) -> Result<Run, OperationError> {
        check_new(&new)?;
        let mut unit = self.begin().await?;
        let (stack, _) = read_stack_with_secrets(unit.conn(), &new.stack).await?;
        stack.tool.check_run(new.run_type)?;
        let Some(source) = stack.source.as_ref().map(|source| source.id.clone()) else {
            return Err(OperationError::Conflict(format!(
                "stack {} has no source yet: upload one first",
                new.stack
            )));
        };
        let NewRun { run_type, command, metadata, .. } = new;
        let detail = format!("{run_type} of stack {}", stack.id);
        let run = RunId::from_ulid(self.ids().ulid(unit.now()));
        let fresh = FreshRun { id: run, run_type, stack, source, command, metadata };
        create_run(&mut unit, actor, fresh).await?;
        unit.audit(actor, "run.trigger", &format!("run {run}"), &detail).await?;
        unit.commit().await?;
        self.run(run).await
    }

    /// The run with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn run(&self, run: RunId) -> Result<Run, OperationError> {
        let mut conn = self.store().read().await?;
        let found = find_run_with_source(&mut conn, run).await?;
        let (row, source) = found.ok_or_else(|| OperationError::not_found("run", run))?;
        Ok(present(row, source))
    }

    /// Lets a run carry out its plan.
    ///
    /// # Errors
    /// When there is no such run, it is not UNCONFIRMED, or somebody else has locked its stack.
    pub async fn confirm(
        &self,
        actor: &str,
        run: RunId,
        note: Option<&str>,
    ) -> Result<Run, OperationError> {
        let said = said("confirmed", actor, note)?;
        let mut unit = self.begin().await?;
        let row = load_run(unit.conn(), run).await?;
        let mut row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let before = row.lifecycle.clone();
        row.lifecycle.confirm(Some(said))?;
        row.confirmed_by = Some(actor.to_owned());
        if let Some(lock) =
            find_lock(unit.conn(), &row.stack).await?.filter(|lock| lock.by != actor)
        {
            return Err(OperationError::Conflict(format!(
                "{}: only {} can confirm its runs, until `gantry stack unlock {}` lifts the lock",
                lock.reason(),
                lock.by,
                row.stack
            )));
        }
        unit.acts(actor, run);
        save_run(&mut unit, &before, &mut row).await?;
        unit.audit(actor, "run.confirm", &format!("run {run}"), "").await?;
        unit.commit().await?;
        self.run(run).await
    }

    /// Turns a run's plan down, or drops a run that waits.
    ///
    /// # Errors
    /// When there is no such run or it runs or is over.
    pub async fn discard(
        &self,
        actor: &str,
        run: RunId,
        note: Option<&str>,
    ) -> Result<Run, OperationError> {
        let said = said("discarded", actor, note)?;
        self.decide(actor, "run.discard", run, |lifecycle| Ok(lifecycle.discard(Some(said))?)).await
    }

    async fn decide(
        &self,
        actor: &str,
        act: &str,
        run: RunId,
        decide: impl FnOnce(&mut RunLifecycle) -> Result<(), OperationError>,
    ) -> Result<Run, OperationError> {
        let mut unit = self.begin().await?;
        let row = load_run(unit.conn(), run).await?;
        let mut row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let before = row.lifecycle.clone();
        decide(&mut row.lifecycle)?;
        unit.acts(actor, run);
        save_run(&mut unit, &before, &mut row).await?;
        unit.audit(actor, act, &format!("run {run}"), "").await?;
        unit.commit().await?;
        self.run(run).await
    }

    /// Stops a run: at once when nothing of it runs, else by asking its worker to interrupt it.
    ///
    /// # Errors
    /// When there is no such run or it is over.
    pub async fn stop(
        &self,
        actor: &str,
        run: RunId,
        note: Option<&str>,
    ) -> Result<Run, OperationError> {
        let note = note.unwrap_or_default();
        check::text("note", note, 0, check::MAX_NOTE)?;
        let by = if note.is_empty() { actor.to_owned() } else { format!("{actor} ({note})") };
        let mut unit = self.begin().await?;
        let row = load_run(unit.conn(), run).await?;
        let mut row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let before = row.lifecycle.clone();
        match row.lifecycle.stop(&by)? {
            Stopping::Over => {}
            Stopping::Cancel(lease) => {
                let attempt = row.lifecycle.attempt();
                let mode = StopMode::Graceful;
                let cancel = FromControlPlane::Cancel(Cancel { attempt, mode, by });
                unit.post(row.pool, lease.worker, cancel).await?;
                note_who_stops(unit.conn(), run, actor).await?;
            }
        }
        unit.acts(actor, run);
        save_run(&mut unit, &before, &mut row).await?;
        unit.audit(actor, "run.stop", &format!("run {run}"), note).await?;
        unit.commit().await?;
        self.run(run).await
    }

    /// Ends a run that no worker has yet.
    ///
    /// # Errors
    /// When there is no such run, a worker has it, or it is over.
    pub async fn cancel(&self, actor: &str, run: RunId) -> Result<Run, OperationError> {
        self.decide(actor, "run.cancel", run, |lifecycle| match lifecycle.stop(actor)? {
            Stopping::Over => Ok(()),
            Stopping::Cancel(_) => {
                Err(OperationError::Conflict("a worker has the run: stop it instead".to_owned()))
            }
        })
        .await
    }

    /// The states that a run was in, oldest first.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn history(&self, run: RunId) -> Result<Vec<HistoryEntry>, OperationError> {
        self.run(run).await?;
        let mut conn = self.store().read().await?;
        Ok(list_history(&mut conn, run).await?)
    }

    /// The tries at a run's stages, oldest first.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, OperationError> {
        self.run(run).await?;
        let mut conn = self.store().read().await?;
        Ok(list_attempts(&mut conn, run).await?)
    }

    /// The outputs of a run that its result had no room for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn more_outputs(&self, run: RunId) -> Result<Vec<Output>, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(list_outputs(&mut conn, run).await?)
    }

    /// How many bytes of log are stored of a run.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn log_length(&self, run: RunId) -> Result<u64, OperationError> {
        let mut conn = self.store().read().await?;
        let row = load_run(&mut conn, run).await?;
        Ok(row.ok_or_else(|| OperationError::not_found("run", run))?.log_length)
    }

    /// Changes its value whenever the run's state or log changes. Look first, then wait: what changed
    /// since the call is seen.
    #[must_use]
    pub fn watch(&self, run: RunId) -> watch::Receiver<u64> {
        self.watchers().watch(run)
    }
}

fn check_new(new: &NewRun) -> Result<(), OperationError> {
    let (most, longest) = MAX_METADATA;
    if new.metadata.len() > most || new.metadata.iter().map(String::len).sum::<usize>() > longest {
        return Err(OperationError::invalid("metadata", "give at most 64 texts, 16 KiB together"));
    }
    match (new.run_type, &new.command) {
        (RunType::Task, Some(command)) => check::text("command", command, 1, check::MAX_NOTE),
        (RunType::Task, None) => {
            Err(OperationError::invalid("command", "a task needs the command that it runs"))
        }
        (_, Some(_)) => {
            Err(OperationError::invalid("command", "only a task has one: leave it out"))
        }
        (_, None) => Ok(()),
    }
}

fn said(what: &str, actor: &str, note: Option<&str>) -> Result<String, OperationError> {
    let note = note.unwrap_or_default();
    check::text("note", note, 0, check::MAX_NOTE)?;
    let colon = if note.is_empty() { "" } else { ": " };
    Ok(format!("{what} by {actor}{colon}{note}"))
}

fn present(row: RunRow, source: StackSource) -> Run {
    let RunRow { lifecycle, .. } = row;
    Run {
        id: lifecycle.run(),
        stack: row.stack,
        pool: row.pool,
        run_type: lifecycle.run_type(),
        state: lifecycle.state(),
        stage: lifecycle.stage(),
        epoch: lifecycle.epoch(),
        command: row.command,
        triggered_by: row.triggered_by,
        metadata: row.metadata,
        source,
        created_at: row.created_at,
        updated_at: row.updated_at,
        worker: lifecycle.assignment().worker(),
        stop_by: lifecycle.stop_by().map(str::to_owned),
        note: lifecycle.note().map(str::to_owned),
        is_unknown: lifecycle.is_unknown(),
        has_changes: row.has_changes,
        delta: row.delta,
        outputs: row.outputs,
    }
}

//! Runs: triggered, watched, confirmed, discarded and stopped by people.

use bytes::Bytes;
use gantry_model::{
    Attempt, Epoch, PoolId, RunId, RunState, RunType, Section, StackId, Stage, Timestamp, WorkerId,
};
use gantry_protocol::message::{Delta, Output};
use tokio::sync::watch;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::stacks::StackSource;

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

/// A state that a run entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The state.
    pub state: RunState,
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub note: Option<String>,
}

/// One try at one stage of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Which.
    pub attempt: Attempt,
    /// The worker that was asked.
    pub worker: WorkerId,
    /// When it was asked.
    pub offered_at: Timestamp,
    /// When it became the owner; none if it never did.
    pub granted_at: Option<Timestamp>,
    /// When it ceased to be.
    pub ended_at: Option<Timestamp>,
    /// How that came, for people.
    pub end_note: Option<String>,
    /// Whether its whole log is stored.
    pub is_log_complete: bool,
}

/// Which part of a run's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogScope {
    /// Everything that came while its attempt was current, in the order in which it came. Grows at its end only.
    Run,
    /// One section of one attempt, be it current or not.
    Section(Attempt, Section),
}

/// Some of a run's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The bytes from the offset that was asked for.
    pub bytes: Bytes,
    /// The offset behind them.
    pub next: u64,
    /// Whether nothing will follow them.
    pub is_finished: bool,
}

/// A section of an attempt's log, as far as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    /// The attempt.
    pub attempt: Attempt,
    /// The section.
    pub section: Section,
    /// How many bytes of it are stored.
    pub length: u64,
    /// Whether that is all of it.
    pub is_complete: bool,
}

/// Which runs of a stack to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunsPage {
    /// Only runs older than this one.
    pub before: Option<RunId>,
    /// At most so many, and at most 100.
    pub limit: u32,
}

impl ControlPlane {
    /// Creates a run of the stack's newest source.
    ///
    /// # Errors
    /// When there is no such stack, it has no source, or something given is not acceptable.
    pub async fn trigger(&self, actor: &str, new: NewRun) -> Result<Run, OperationError> {
        let _ = (actor, new);
        Err(crate::control_plane::unbuilt())
    }

    /// The run with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn run(&self, run: RunId) -> Result<Run, OperationError> {
        let _ = run;
        Err(crate::control_plane::unbuilt())
    }

    /// Runs of a stack, newest first.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn runs_of(
        &self,
        stack: &StackId,
        page: RunsPage,
    ) -> Result<Vec<Run>, OperationError> {
        let _ = (stack, page);
        Err(crate::control_plane::unbuilt())
    }

    /// Lets a run carry out its plan.
    ///
    /// # Errors
    /// When there is no such run or it is not UNCONFIRMED.
    pub async fn confirm(
        &self,
        actor: &str,
        run: RunId,
        note: Option<&str>,
    ) -> Result<Run, OperationError> {
        let _ = (actor, run, note);
        Err(crate::control_plane::unbuilt())
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
        let _ = (actor, run, note);
        Err(crate::control_plane::unbuilt())
    }

    /// Stops a run: at once when nothing of it runs, else by asking its worker to interrupt it.
    ///
    /// # Errors
    /// When there is no such run or it is over.
    pub async fn stop(&self, actor: &str, run: RunId) -> Result<Run, OperationError> {
        let _ = (actor, run);
        Err(crate::control_plane::unbuilt())
    }

    /// The states that a run was in, oldest first.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn history(&self, run: RunId) -> Result<Vec<HistoryEntry>, OperationError> {
        let _ = run;
        Err(crate::control_plane::unbuilt())
    }

    /// The tries at a run's stages, oldest first.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, OperationError> {
        let _ = run;
        Err(crate::control_plane::unbuilt())
    }

    /// The sections of a run's log, in the order of attempts and phases.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn log_sections(&self, run: RunId) -> Result<Vec<LogSection>, OperationError> {
        let _ = run;
        Err(crate::control_plane::unbuilt())
    }

    /// Reads a run's log from an offset, at most `max` bytes and at most 1 MiB.
    ///
    /// # Errors
    /// When there is no such run or the object store fails.
    pub async fn read_log(
        &self,
        run: RunId,
        scope: LogScope,
        from: u64,
        max: usize,
    ) -> Result<LogPart, OperationError> {
        let _ = (run, scope, from, max);
        Err(crate::control_plane::unbuilt())
    }

    /// Changes its value whenever the run's state or log changes. Look first, then wait: what changed
    /// since the call is seen.
    #[must_use]
    pub fn watch(&self, run: RunId) -> watch::Receiver<u64> {
        self.watchers().watch(run)
    }
}

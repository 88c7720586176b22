//! Runs.

use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::{Context, ID, Object, Result, SimpleObject};

use super::log::RunLogs;
use super::stack::Stack;
use super::word::{RunState, RunType};
use super::{Long, count, seconds};
use crate::http::Operations;
use crate::http::graphql::error::refused;
use crate::queue::Wait;
use crate::runs::{self, AttemptRecord, HistoryEntry, RunsPage};
use crate::stacks;

/// A run: one job of a stack.
pub(crate) struct Run {
    pub(crate) run: runs::Run,
    /// Its stack, if that was looked up for all runs of the answer.
    stack: Option<Arc<stacks::Stack>>,
}

impl From<runs::Run> for Run {
    fn from(run: runs::Run) -> Self {
        Self { run, stack: None }
    }
}

impl Run {
    /// Runs of one answer, which share what is looked up for them.
    pub(crate) async fn list(ctx: &Context<'_>, runs: Vec<runs::Run>) -> Result<Vec<Self>> {
        let mut stacks = HashMap::new();
        if ctx.look_ahead().field("stack").exists() {
            let found =
                ctx.data::<Operations>()?.stacks.stacks_of_runs(&runs).await.map_err(refused)?;
            stacks.extend(found.into_iter().map(|stack| (stack.id.clone(), Arc::new(stack))));
        }
        let with_stack = |run: runs::Run| Self { stack: stacks.get(&run.stack).cloned(), run };
        Ok(runs.into_iter().map(with_stack).collect())
    }
}

#[Object]
impl Run {
    /// Its id, a ULID.
    async fn id(&self) -> ID {
        self.run.id.to_string().into()
    }

    /// What it is for.
    #[graphql(name = "type")]
    async fn run_type(&self) -> RunType {
        self.run.run_type.into()
    }

    /// Where it is.
    async fn state(&self) -> RunState {
        self.run.state.into()
    }

    /// Whether it is over.
    async fn finished(&self) -> bool {
        self.run.state.is_terminal()
    }

    /// What it works on, in a line.
    async fn title(&self) -> &str {
        &self.run.source.message
    }

    /// When it was created, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.run.created_at)
    }

    /// When it last changed, in seconds since 1970.
    async fn updated_at(&self) -> i64 {
        seconds(self.run.updated_at)
    }

    /// Who or what triggered it.
    async fn triggered_by(&self) -> Option<&str> {
        Some(self.run.triggered_by.as_str())
    }

    /// The branch of its source; empty for an uploaded one.
    async fn branch(&self) -> &'static str {
        ""
    }

    /// The version of its source.
    async fn commit(&self) -> Commit {
        let source = &self.run.source;
        Commit {
            hash: source.sha256.clone(),
            author_name: source.author.clone(),
            author_login: Some(source.author.clone()),
            message: source.message.clone(),
            timestamp: seconds(source.created_at),
            url: None,
        }
    }

    /// What its plan would change; null before that is known.
    async fn delta(&self) -> Option<Delta> {
        self.run.delta.map(|delta| Delta {
            add_count: count(delta.add),
            change_count: count(delta.change),
            delete_count: count(delta.delete),
            import_count: count(delta.import),
            move_count: count(delta.moved),
            forget_count: count(delta.forget),
            resources: count(delta.add.saturating_add(delta.change).saturating_add(delta.delete)),
        })
    }

    /// The command of a task.
    async fn command(&self) -> Option<&str> {
        self.run.command.as_deref()
    }

    /// What clients attached to it.
    async fn user_provided_metadata(&self) -> &[String] {
        &self.run.metadata
    }

    /// What people said about it. Not done here: none.
    async fn comments(&self) -> Vec<RunComment> {
        vec![]
    }

    /// Whether its stack has no newer run.
    async fn is_most_recent(&self, ctx: &Context<'_>) -> Result<bool> {
        let page = RunsPage { limit: 1, ..RunsPage::default() };
        let operations = ctx.data::<Operations>()?;
        let newest = operations.runs.runs_of(&self.run.stack, page).await.map_err(refused)?;
        Ok(newest.first().is_some_and(|newest| newest.id == self.run.id))
    }

    /// Whether it looks for drift.
    async fn drift_detection(&self) -> bool {
        false
    }

    /// Whether it is too old to go on.
    async fn expired(&self) -> bool {
        false
    }

    /// Whether it waits for an approval.
    async fn needs_approval(&self) -> bool {
        false
    }

    /// Whether it can be run again as it is.
    async fn can_retry(&self) -> bool {
        self.run.can_retry()
    }

    /// The states that it was in, newest first.
    async fn history(&self, ctx: &Context<'_>) -> Result<Vec<RunStateTransition>> {
        let history = ctx.data::<Operations>()?.runs.history(self.run.id).await.map_err(refused)?;
        let newest_first = history.into_iter().enumerate().rev();
        Ok(newest_first.map(|(version, entry)| RunStateTransition::new(version, entry)).collect())
    }

    /// A part of the log: what was written in the state that `history` shows with this version.
    async fn logs(
        &self,
        ctx: &Context<'_>,
        state: Option<RunState>,
        token: Option<String>,
        state_version: Option<i32>,
    ) -> Result<RunLogs> {
        let operations = ctx.data::<Operations>()?;
        RunLogs::read(operations, self.run.id, state, state_version, token.as_deref()).await
    }

    /// Gantry: its stack.
    async fn stack(&self, ctx: &Context<'_>) -> Result<Stack> {
        if let Some(stack) = &self.stack {
            return Ok(Stack::from(stacks::Stack::clone(stack)));
        }
        let stack =
            ctx.data::<Operations>()?.stacks.stack_of_run(&self.run).await.map_err(refused)?;
        Ok(Stack::from(stack))
    }

    /// Gantry: why it is in its state.
    async fn note(&self) -> Option<&str> {
        self.run.note.as_deref()
    }

    /// Gantry: whether nobody knows how it ended.
    async fn unknown(&self) -> bool {
        self.run.is_unknown
    }

    /// Gantry: whether its plan found something to change; null before that is known.
    async fn has_changes(&self) -> Option<bool> {
        self.run.has_changes
    }

    /// Gantry: the stack's outputs after it.
    async fn outputs(&self, ctx: &Context<'_>) -> Result<Vec<RunOutput>> {
        let more =
            ctx.data::<Operations>()?.runs.more_outputs(self.run.id).await.map_err(refused)?;
        let outputs = self.run.outputs.iter().chain(&more).map(|output| RunOutput {
            name: output.name.clone(),
            sensitive: output.is_sensitive,
            value: output.value.as_ref().map(ToString::to_string),
        });
        Ok(outputs.collect())
    }

    /// Gantry: the worker that was asked or is the owner.
    async fn worker(&self) -> Option<ID> {
        self.run.worker.map(|worker| worker.to_string().into())
    }

    /// Gantry: the tries at its stages, oldest first.
    async fn attempts(&self, ctx: &Context<'_>) -> Result<Vec<RunAttempt>> {
        let attempts =
            ctx.data::<Operations>()?.runs.attempts(self.run.id).await.map_err(refused)?;
        Ok(attempts.into_iter().map(RunAttempt::from).collect())
    }

    /// Gantry: why it does not go on, weightiest first; nothing if it does or is over.
    #[graphql(complexity = "50 + child_complexity")]
    async fn waits(&self, ctx: &Context<'_>) -> Result<Vec<Wait>> {
        ctx.data::<Operations>()?.queue.waits(self.run.id).await.map_err(refused)
    }

    /// Gantry: who asked it to stop, if anybody did.
    async fn stop_by(&self) -> Option<&str> {
        self.run.stop_by.as_deref()
    }

    /// Gantry: how many bytes of log `GET /runs/RUN/log` has.
    async fn log_length(&self, ctx: &Context<'_>) -> Result<Long> {
        let length =
            ctx.data::<Operations>()?.runs.log_length(self.run.id).await.map_err(refused)?;
        Ok(Long(length))
    }
}

/// The version of a run's source.
#[derive(SimpleObject)]
pub(crate) struct Commit {
    /// Its hash; for an uploaded source that of the archive.
    hash: String,
    /// Who made it.
    author_name: String,
    /// Who made it.
    author_login: Option<String>,
    /// What they said about it.
    message: String,
    /// When, in seconds since 1970.
    timestamp: i64,
    /// Where it can be seen.
    url: Option<String>,
}

/// What somebody said about a run.
#[derive(SimpleObject)]
pub(crate) struct RunComment {
    /// The words.
    body: String,
    /// When, in seconds since 1970.
    created_at: i64,
    /// Who.
    username: String,
}

/// What a plan would change.
#[derive(SimpleObject)]
pub(crate) struct Delta {
    /// Resources to add.
    add_count: i32,
    /// Resources to change.
    change_count: i32,
    /// Resources to remove.
    delete_count: i32,
    /// Resources to import.
    import_count: i32,
    /// Resources that get another address.
    move_count: i32,
    /// Resources to forget: they stay, and the state does not have them any more.
    forget_count: i32,
    /// All that are added, changed or removed.
    resources: i32,
}

/// A state that a run came to.
#[derive(SimpleObject)]
pub(crate) struct RunStateTransition {
    /// The state.
    state: RunState,
    /// Tells apart the times that a run came to it.
    state_version: i32,
    /// When, in seconds since 1970.
    timestamp: i64,
    /// Why.
    note: Option<String>,
    /// Who did it.
    username: Option<String>,
    /// Whether something is written in this state.
    has_logs: bool,
    /// Whether no other state follows.
    terminal: bool,
}

impl RunStateTransition {
    fn new(version: usize, entry: HistoryEntry) -> Self {
        Self {
            state: entry.state.into(),
            state_version: count(version as u64),
            timestamp: seconds(entry.at),
            note: entry.note,
            username: entry.by,
            has_logs: super::log::section_of(entry.state).is_some(),
            terminal: entry.state.is_terminal(),
        }
    }
}

/// Gantry: one output of a stack.
#[derive(SimpleObject)]
pub(crate) struct RunOutput {
    /// Its name.
    name: String,
    /// Whether the tool calls it sensitive. Such a value does not leave the worker's host.
    sensitive: bool,
    /// Its masked value as JSON; null when sensitive or too large.
    value: Option<String>,
}

/// Gantry: one try at one stage of a run.
#[derive(SimpleObject)]
pub(crate) struct RunAttempt {
    /// Which offer of the run.
    epoch: i32,
    /// `read` or `write`.
    stage: String,
    /// The worker that was asked.
    worker: ID,
    /// When it was asked, in seconds since 1970.
    offered_at: i64,
    /// When it became the owner, in seconds since 1970; null if it never did.
    granted_at: Option<i64>,
    /// When it ceased to be, in seconds since 1970.
    ended_at: Option<i64>,
    /// How that came.
    outcome: Option<String>,
    /// Whether its whole log is stored.
    log_complete: bool,
}

impl From<AttemptRecord> for RunAttempt {
    fn from(record: AttemptRecord) -> Self {
        Self {
            epoch: count(record.attempt.epoch.0),
            stage: record.attempt.stage.to_string(),
            worker: record.worker.to_string().into(),
            offered_at: seconds(record.offered_at),
            granted_at: record.granted_at.map(seconds),
            ended_at: record.ended_at.map(seconds),
            outcome: record.end_note,
            log_complete: record.is_log_complete,
        }
    }
}

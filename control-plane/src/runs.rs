//! Runs: triggered, watched, confirmed, discarded and stopped by people.

mod list;
mod retry;

use gantry_model::{
    Attempt, Epoch, PoolId, RunId, RunLife, RunState, RunType, StackId, Stage, Stopping, Timestamp,
    WorkerId,
};
use gantry_protocol::message::{Cancel, Delta, FromControlPlane, Output, StopMode};
use sqlx::Row as _;
use tokio::sync::watch;

pub use self::list::{RunsKind, RunsPage};
pub use crate::logs::{LogPart, LogScope, LogSection};

use crate::check;
use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::stacks::{StackSource, read_source, read_stack_with_secrets};
use crate::store::{
    Connection, RunRow, at, from_db, id, insert_run, load_run, lock_of, maybe_at, run_state,
    save_run, stage,
};

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

impl ControlPlane {
    /// Creates a run of the stack's newest source.
    ///
    /// # Errors
    /// When there is no such stack, it has no source, or something given is not acceptable.
    pub async fn trigger(&self, actor: &str, new: NewRun) -> Result<Run, OperationError> {
        check_new(&new)?;
        let mut unit = self.begin().await?;
        let (stack, _) = read_stack_with_secrets(unit.conn(), &new.stack).await?;
        let Some(source) = stack.source else {
            return Err(OperationError::Conflict(format!(
                "stack {} has no source yet: upload one first",
                new.stack
            )));
        };
        let run = RunId::from_ulid(self.ids().ulid(unit.now()));
        let mut row = RunRow {
            life: RunLife::queued(run, new.run_type, stack.autodeploy),
            stack: new.stack,
            pool: stack.pool,
            source: source.id,
            command: new.command,
            triggered_by: actor.to_owned(),
            confirmed_by: None,
            metadata: new.metadata,
            created_at: unit.now(),
            updated_at: unit.now(),
            has_changes: None,
            delta: None,
            outputs: Vec::new(),
            history_count: 0,
            log_length: 0,
        };
        insert_run(&mut unit, &mut row).await?;
        let detail = format!("{} of stack {}", new.run_type, row.stack);
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
        let row = load_run(&mut conn, run).await?;
        let row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        present(&mut conn, row).await
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
        let before = row.life.clone();
        row.life.confirm(Some(said))?;
        row.confirmed_by = Some(actor.to_owned());
        if let Some(lock) = lock_of(&mut unit, &row.stack).await?.filter(|lock| lock.by != actor) {
            return Err(OperationError::Conflict(format!(
                "{}: only {} can confirm its runs, until `gantry stack unlock {}` lifts the lock",
                lock.reason(),
                lock.by,
                row.stack
            )));
        }
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
        self.decide(actor, "run.discard", run, |life| Ok(life.discard(Some(said))?)).await
    }

    async fn decide(
        &self,
        actor: &str,
        act: &str,
        run: RunId,
        decide: impl FnOnce(&mut RunLife) -> Result<(), OperationError>,
    ) -> Result<Run, OperationError> {
        let mut unit = self.begin().await?;
        let row = load_run(unit.conn(), run).await?;
        let mut row = row.ok_or_else(|| OperationError::not_found("run", run))?;
        let before = row.life.clone();
        decide(&mut row.life)?;
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
        let before = row.life.clone();
        match row.life.stop(&by)? {
            Stopping::Over => {}
            Stopping::Cancel(lease) => {
                let attempt = row.life.attempt();
                let mode = StopMode::Graceful;
                let cancel = FromControlPlane::Cancel(Cancel { attempt, mode, by });
                unit.post(row.pool, lease.worker, cancel).await?;
            }
        }
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
        self.decide(actor, "run.cancel", run, |life| match life.stop(actor)? {
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
        let select = "SELECT state, at, note FROM history WHERE run = $1 ORDER BY n";
        let rows = sqlx::query(select).bind(run.to_string()).fetch_all(&mut *conn).await?;
        let mut history: Vec<HistoryEntry> = Vec::new();
        for row in rows {
            history.push(HistoryEntry {
                state: run_state(row.get("state"))?,
                at: at(row.get("at")),
                note: row.get("note"),
            });
        }
        Ok(history)
    }

    /// The tries at a run's stages, oldest first.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, OperationError> {
        self.run(run).await?;
        let mut conn = self.store().read().await?;
        let select = "SELECT * FROM attempts WHERE run = $1 ORDER BY epoch, stage";
        let rows = sqlx::query(select).bind(run.to_string()).fetch_all(&mut *conn).await?;
        let mut attempts = Vec::new();
        for row in rows {
            let (stage, epoch) = (stage(row.get("stage"))?, Epoch(from_db(row.get("epoch"))));
            attempts.push(AttemptRecord {
                attempt: Attempt { run, stage, epoch },
                worker: id("worker", row.get("worker"))?,
                offered_at: at(row.get("offered_at")),
                granted_at: maybe_at(row.get("granted_at")),
                ended_at: maybe_at(row.get("ended_at")),
                end_note: row.get("end_note"),
                is_log_complete: row.get::<i64, _>("is_log_complete") != 0,
            });
        }
        Ok(attempts)
    }

    /// The outputs of a run that its result had no room for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn more_outputs(&self, run: RunId) -> Result<Vec<Output>, OperationError> {
        let mut conn = self.store().read().await?;
        let select = "SELECT name, is_sensitive, value FROM outputs WHERE run = $1 ORDER BY n";
        let rows = sqlx::query(select).bind(run.to_string()).fetch_all(&mut *conn).await?;
        let output = |row: crate::store::Row| Output {
            name: row.get("name"),
            is_sensitive: row.get::<i64, _>("is_sensitive") != 0,
            value: row
                .get::<Option<String>, _>("value")
                .and_then(|value| serde_json::from_str(&value).ok()),
        };
        Ok(rows.into_iter().map(output).collect())
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

async fn present(conn: &mut Connection, row: RunRow) -> Result<Run, OperationError> {
    let source = read_source(conn, &row.source).await?;
    let RunRow { life, .. } = row;
    Ok(Run {
        id: life.run,
        stack: row.stack,
        pool: row.pool,
        run_type: life.run_type,
        state: life.state,
        stage: life.stage,
        epoch: life.epoch,
        command: row.command,
        triggered_by: row.triggered_by,
        metadata: row.metadata,
        source,
        created_at: row.created_at,
        updated_at: row.updated_at,
        worker: life.standing.worker(),
        stop_by: life.stop,
        note: life.note,
        is_unknown: life.is_unknown,
        has_changes: row.has_changes,
        delta: row.delta,
        outputs: row.outputs,
    })
}

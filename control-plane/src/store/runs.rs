//! Runs in the database: a [`RunLifecycle`] and what belongs to it, loaded and written as one.
//!
//! [`write_run`] is the only place that writes a run's state, and with it what `gantry-model` says that
//! follows from the change. Nothing is decided here.

use gantry_model::{
    Assignment, Effect, Epoch, JournalId, Lease, PoolId, RunId, RunLifecycle, RunRecord, RunState,
    RunType, StackId, Timestamp, WorkerId,
};
use gantry_protocol::message::{Delta, Output};

use super::attempts::{begin_attempt, end_attempt, grant_attempt};
use super::sources::{SOURCE_COLUMNS, StackSource, source};
use super::stacks::{block_stack, release_stack, set_lock};
use super::{
    Columns as _, Connection, Row, StoreError, WorkerKey, json, run_state, run_type, stage, to_db,
    to_json,
};

/// All columns that [`read_run`] reads, of `runs r`.
pub(crate) const RUN_COLUMNS: &str = "r.id, r.stack, r.pool, r.type, r.is_autodeploy, r.source, \
    r.command, r.triggered_by, r.confirmed_by, r.metadata, r.created_at, r.updated_at, r.state, r.stage, r.epoch, \
    r.read_attempts, r.standing, r.worker, r.journal, r.until_at, r.deadline_at, r.is_continued, \
    r.stop_by, r.note, r.is_unknown, r.has_changes, r.delta, r.outputs, r.history_count, r.log_length";

/// A run as it stands in the database.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) lifecycle: RunLifecycle,
    pub(crate) stack: StackId,
    pub(crate) pool: PoolId,
    pub(crate) source: String,
    pub(crate) command: Option<String>,
    pub(crate) triggered_by: String,
    pub(crate) confirmed_by: Option<String>,
    pub(crate) metadata: Vec<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) has_changes: Option<bool>,
    pub(crate) delta: Option<Delta>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) history_count: u64,
    pub(crate) log_length: u64,
}

fn assignment(row: &Row) -> Result<Assignment, StoreError> {
    let word = row.text("standing")?;
    let broken = || StoreError::Value { kind: "standing", text: word.clone() };
    let worker =
        || -> Result<WorkerId, StoreError> { row.maybe_parsed("worker")?.ok_or_else(broken) };
    let instant = |column| row.maybe_instant(column)?.ok_or_else(broken);
    Ok(match word.as_str() {
        "idle" => Assignment::Idle,
        "waiting" => Assignment::Waiting,
        "offered" => Assignment::Offered { worker: worker()?, until: instant("until_at")? },
        "granted" => Assignment::Granted(Lease {
            worker: worker()?,
            journal: row.maybe_parsed::<JournalId>("journal")?.ok_or_else(broken)?,
            until: instant("until_at")?,
            deadline: instant("deadline_at")?,
            is_continued: row.flag("is_continued")?,
        }),
        _ => return Err(broken()),
    })
}

/// Reads a row that has [`RUN_COLUMNS`].
pub(crate) fn read_run(row: &Row) -> Result<RunRow, StoreError> {
    let lifecycle = RunLifecycle::restore(RunRecord {
        run: row.parsed("id")?,
        run_type: run_type(&row.text("type")?)?,
        autodeploy: row.flag("is_autodeploy")?,
        state: run_state(&row.text("state")?)?,
        stage: stage(&row.text("stage")?)?,
        epoch: Epoch(row.number("epoch")?),
        read_attempts: u32::try_from(row.number("read_attempts")?).unwrap_or(u32::MAX),
        assignment: assignment(row)?,
        stop: row.maybe_text("stop_by")?,
        note: row.maybe_text("note")?,
        is_unknown: row.flag("is_unknown")?,
    });
    let delta = row.maybe_text("delta")?;
    Ok(RunRow {
        lifecycle,
        stack: row.parsed("stack")?,
        pool: row.parsed("pool")?,
        source: row.text("source")?,
        command: row.maybe_text("command")?,
        triggered_by: row.text("triggered_by")?,
        confirmed_by: row.maybe_text("confirmed_by")?,
        metadata: row.json("metadata")?,
        created_at: row.instant("created_at")?,
        updated_at: row.instant("updated_at")?,
        has_changes: row.maybe_integer("has_changes")?.map(|it| it != 0),
        delta: delta.map(|text| json("delta", &text)).transpose()?,
        outputs: row.json("outputs")?,
        history_count: row.number("history_count")?,
        log_length: row.number("log_length")?,
    })
}

/// The run with this id.
pub(crate) async fn load_run(
    conn: &mut Connection,
    run: RunId,
) -> Result<Option<RunRow>, StoreError> {
    let select = format!("SELECT {RUN_COLUMNS} FROM runs r WHERE r.id = $1");
    let row =
        sqlx::query(sqlx::AssertSqlSafe(select)).bind(run.to_string()).fetch_optional(conn).await?;
    row.as_ref().map(read_run).transpose()
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
    /// Whose doing it is, if it is a person's or program's that asked for it.
    pub by: Option<String>,
}

/// Which runs of a stack are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunsKind {
    /// All of them.
    #[default]
    All,
    /// Those that only propose.
    Proposed,
    /// All others.
    Others,
}

/// Which runs of a stack to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunsPage {
    /// Only these.
    pub kind: RunsKind,
    /// Only runs older than this one.
    pub before: Option<RunId>,
    /// At most so many, and at most 100.
    pub limit: u32,
}

/// The run with this id, and its source.
pub(crate) async fn find_run_with_source(
    conn: &mut Connection,
    run: RunId,
) -> Result<Option<(RunRow, StackSource)>, StoreError> {
    let select = format!(
        "SELECT {RUN_COLUMNS}, {SOURCE_COLUMNS} FROM runs r JOIN sources src ON src.id = r.source \
         WHERE r.id = $1"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(run.to_string());
    query.fetch_optional(conn).await?.as_ref().map(run_with_source).transpose()
}

fn run_with_source(row: &Row) -> Result<(RunRow, StackSource), StoreError> {
    Ok((read_run(row)?, source(row)?))
}

/// Runs of a stack, or of all, newest first, and their sources; only those whose id begins with `prefix`.
pub(crate) async fn list_runs(
    conn: &mut Connection,
    stack: Option<&StackId>,
    prefix: &str,
    page: RunsPage,
) -> Result<Vec<(RunRow, StackSource)>, StoreError> {
    let kind = match page.kind {
        RunsKind::All => "",
        RunsKind::Proposed => "AND r.type = 'PROPOSED' ",
        RunsKind::Others => "AND r.type <> 'PROPOSED' ",
    };
    let stacks = if stack.is_some() { "r.stack = $1" } else { "$1 = ''" };
    let select = format!(
        "SELECT {RUN_COLUMNS}, {SOURCE_COLUMNS} FROM runs r JOIN sources src ON src.id = r.source \
         WHERE {stacks} AND r.id < COALESCE($2, '~') \
         AND r.id >= $4 AND r.id < $4 || '~' {kind}ORDER BY r.id DESC LIMIT $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(select))
        .bind(stack.map_or("", StackId::as_str))
        .bind(page.before.map(|run| run.to_string()))
        .bind(i64::from(page.limit))
        .bind(prefix)
        .fetch_all(conn)
        .await?;
    rows.iter().map(run_with_source).collect()
}

/// The states that a run was in, oldest first.
pub(crate) async fn list_history(
    conn: &mut Connection,
    run: RunId,
) -> Result<Vec<HistoryEntry>, StoreError> {
    let select = "SELECT state, at, note, by_actor FROM history WHERE run = $1 ORDER BY n";
    let rows = sqlx::query(select).bind(run.to_string()).fetch_all(conn).await?;
    let entry = |row: &Row| {
        Ok(HistoryEntry {
            state: run_state(&row.text("state")?)?,
            at: row.instant("at")?,
            note: row.maybe_text("note")?,
            by: row.maybe_text("by_actor")?,
        })
    };
    rows.iter().map(entry).collect()
}

/// Who wants a run stopped that a worker has: it is their doing when it is.
pub(crate) async fn note_who_stops(
    conn: &mut Connection,
    run: RunId,
    actor: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET stopped_by = $2 WHERE id = $1")
        .bind(run.to_string())
        .bind(actor)
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes a run what `row` says, and writes what follows from the change, in its order. It is the doing of `by`.
pub(crate) async fn write_run(
    conn: &mut Connection,
    row: &mut RunRow,
    effects: &[Effect],
    by: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let run = row.lifecycle.run();
    row.updated_at = now;
    if effects.contains(&Effect::AddHistory) {
        insert_history(conn, row, by, now).await?;
        row.history_count += 1;
    }
    update_run(conn, row).await?;
    for effect in effects {
        match effect {
            Effect::AddHistory => {}
            Effect::EndAttempt(attempt) => {
                end_attempt(conn, *attempt, row.lifecycle.note(), now).await?;
            }
            Effect::FreeWorker(worker) => free_worker(conn, (row.pool, *worker), run, now).await?,
            Effect::OccupyWorker(worker) => occupy_worker(conn, (row.pool, *worker), run).await?,
            Effect::BeginAttempt(attempt, worker) => {
                begin_attempt(conn, *attempt, *worker, now).await?;
            }
            Effect::GrantAttempt(attempt) => grant_attempt(conn, *attempt, now).await?,
            Effect::ClearAt(at) => set_clear_at(conn, run, Some(*at)).await?,
            Effect::BlockStack => block_stack(conn, &row.stack, run).await?,
            Effect::LockStack(lock) => set_lock(conn, &row.stack, Some(lock)).await?,
            Effect::ReleaseStack => release_stack(conn, &row.stack, run).await?,
        }
    }
    Ok(())
}

/// When the run's workspaces and specs can go; none if they are gone.
pub(crate) async fn set_clear_at(
    conn: &mut Connection,
    run: RunId,
    at: Option<Timestamp>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET clear_at = $2 WHERE id = $1")
        .bind(run.to_string())
        .bind(at.map(|at| to_db(at.0)))
        .execute(conn)
        .await?;
    Ok(())
}

async fn insert_history(
    conn: &mut Connection,
    row: &RunRow,
    by: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    // Who wanted it stopped did so a while ago.
    let insert = "INSERT INTO history (run, n, state, at, note, by_actor) VALUES ($1, $2, $3, $4, $5, \
        COALESCE($6, (SELECT stopped_by FROM runs WHERE id = $1 AND $3 = 'STOPPED')))";
    sqlx::query(insert)
        .bind(row.lifecycle.run().to_string())
        .bind(to_db(row.history_count))
        .bind(row.lifecycle.state().as_str())
        .bind(to_db(now.0))
        .bind(row.lifecycle.note())
        .bind(by)
        .execute(conn)
        .await?;
    Ok(())
}

async fn update_run(conn: &mut Connection, row: &RunRow) -> Result<(), StoreError> {
    let lifecycle = &row.lifecycle;
    let (word, until, lease) = match *lifecycle.assignment() {
        Assignment::Idle => ("idle", None, None),
        Assignment::Waiting => ("waiting", None, None),
        Assignment::Offered { until, .. } => ("offered", Some(until), None),
        Assignment::Granted(lease) => ("granted", Some(lease.until), Some(lease)),
    };
    let update = "UPDATE runs SET state = $2, stage = $3, epoch = $4, read_attempts = $5, \
        standing = $6, worker = $7, journal = $8, until_at = $9, deadline_at = $10, \
        is_continued = $11, due_at = $12, stop_by = $13, note = $14, is_unknown = $15, \
        has_changes = $16, delta = $17, outputs = $18, history_count = $19, log_length = $20, \
        updated_at = $21, confirmed_by = $22 WHERE id = $1";
    sqlx::query(update)
        .bind(lifecycle.run().to_string())
        .bind(lifecycle.state().as_str())
        .bind(lifecycle.stage().as_str())
        .bind(to_db(lifecycle.epoch().0))
        .bind(i64::from(lifecycle.read_attempts()))
        .bind(word)
        .bind(lifecycle.assignment().worker().map(|worker| worker.to_string()))
        .bind(lease.map(|lease| lease.journal.to_string()))
        .bind(until.map(|until| to_db(until.0)))
        .bind(lease.map(|lease| to_db(lease.deadline.0)))
        .bind(i64::from(lease.is_some_and(|lease| lease.is_continued)))
        .bind(lifecycle.due().map(|due| to_db(due.0)))
        .bind(lifecycle.stop_by())
        .bind(lifecycle.note())
        .bind(i64::from(lifecycle.is_unknown()))
        .bind(row.has_changes.map(i64::from))
        .bind(row.delta.as_ref().map(to_json))
        .bind(to_json(&row.outputs))
        .bind(to_db(row.history_count))
        .bind(to_db(row.log_length))
        .bind(to_db(row.updated_at.0))
        .bind(row.confirmed_by.as_deref())
        .execute(conn)
        .await?;
    Ok(())
}

/// Moves the end of a lease to where the run's lifecycle has it.
pub(crate) async fn update_lease(
    conn: &mut Connection,
    lifecycle: &RunLifecycle,
) -> Result<(), StoreError> {
    let Assignment::Granted(lease) = lifecycle.assignment() else { return Ok(()) };
    sqlx::query("UPDATE runs SET until_at = $2, due_at = $3 WHERE id = $1")
        .bind(lifecycle.run().to_string())
        .bind(to_db(lease.until.0))
        .bind(lifecycle.due().map(|due| to_db(due.0)))
        .execute(conn)
        .await?;
    Ok(())
}

async fn free_worker(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    run: RunId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET run = NULL, available_at = $4 \
                  WHERE pool = $1 AND id = $2 AND (run IS NULL OR run = $3)";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(run.to_string())
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

async fn occupy_worker(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    run: RunId,
) -> Result<(), StoreError> {
    let update = "UPDATE workers SET run = $3, available_at = NULL \
                  WHERE pool = $1 AND id = $2 AND (run IS NULL OR run = $3)";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(run.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// A run that was just made, as far as it does not change.
pub(crate) async fn insert_run(conn: &mut Connection, row: &RunRow) -> Result<(), StoreError> {
    let insert = "INSERT INTO runs (id, stack, pool, type, rank, is_autodeploy, source, command, \
        triggered_by, metadata, created_at, updated_at, state, stage, epoch, read_attempts, \
        standing, is_continued, is_unknown, outputs, history_count, log_length) VALUES \
        ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, 0, 0, 'idle', 0, 0, '[]', 0, 0)";
    let lifecycle = &row.lifecycle;
    sqlx::query(insert)
        .bind(lifecycle.run().to_string())
        .bind(row.stack.as_str())
        .bind(row.pool.to_string())
        .bind(lifecycle.run_type().as_str())
        .bind(i64::from(lifecycle.run_type().rank()))
        .bind(i64::from(lifecycle.is_autodeployed()))
        .bind(&row.source)
        .bind(row.command.as_deref())
        .bind(&row.triggered_by)
        .bind(to_json(&row.metadata))
        .bind(to_db(row.created_at.0))
        .bind(lifecycle.state().as_str())
        .bind(lifecycle.stage().as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// The oldest run of the stack that is queued, of all or of those that this person triggered.
pub(crate) async fn oldest_queued(
    conn: &mut Connection,
    stack: &StackId,
    triggered_by: Option<&str>,
) -> Result<Option<RunRow>, StoreError> {
    let select = format!(
        "SELECT {RUN_COLUMNS} FROM runs r WHERE r.stack = $1 AND r.state = 'QUEUED' \
         AND r.triggered_by = COALESCE($2, r.triggered_by) ORDER BY r.id LIMIT 1"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(stack.as_str()).bind(triggered_by);
    query.fetch_optional(conn).await?.as_ref().map(read_run).transpose()
}

/// The runs of a stack that wait for a worker, or that one was offered.
pub(crate) async fn list_ungranted(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<Vec<RunRow>, StoreError> {
    let select = format!(
        "SELECT {RUN_COLUMNS} FROM runs r WHERE r.stack = $1 AND r.standing IN ('waiting', 'offered')"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(stack.as_str());
    query.fetch_all(conn).await?.iter().map(read_run).collect()
}

/// A run of the stack that is not over.
pub(crate) async fn unfinished_run(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<Option<RunId>, StoreError> {
    oldest_run(conn, stack, &RunType::ALL, |state| !state.is_terminal()).await
}

/// A run that was planned with the stack's present state, or is about to begin with it. One that only
/// waits its turn, or can write none, is no matter.
pub(crate) async fn run_with_state(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<Option<RunId>, StoreError> {
    let types: Vec<RunType> = RunType::ALL.into_iter().filter(|it| it.may_write_state()).collect();
    oldest_run(conn, stack, &types, |it| !it.is_terminal() && it != RunState::Queued).await
}

async fn oldest_run(
    conn: &mut Connection,
    stack: &StackId,
    types: &[RunType],
    is_meant: impl Fn(RunState) -> bool,
) -> Result<Option<RunId>, StoreError> {
    let quoted = |word: &str| format!("'{word}'");
    let types: Vec<String> = types.iter().map(|it| quoted(it.as_str())).collect();
    let states = RunState::ALL.into_iter().filter(|state| is_meant(*state));
    let states: Vec<String> = states.map(|it| quoted(it.as_str())).collect();
    let select = format!(
        "SELECT id FROM runs WHERE stack = $1 AND type IN ({}) AND state IN ({}) ORDER BY id LIMIT 1",
        types.join(", "),
        states.join(", ")
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(stack.as_str());
    query.fetch_optional(conn).await?.map(|row| row.parsed("id")).transpose()
}

//! What an attempt left: state versions, its workspace, a policy's decision, outputs, its result.

use gantry_model::{Attempt, RunId, StackId, Timestamp};
use gantry_protocol::message::{Decision, Output, StateStored, WorkspaceStored};

use super::{Columns as _, Connection, StoreError, WorkerKey, to_db, to_json};

/// Whether the attempt was ever granted to the worker, current or not.
pub(crate) async fn was_granted(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    attempt: Attempt,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM attempts a JOIN runs r ON r.id = a.run WHERE a.run = $1 \
                  AND a.epoch = $2 AND a.stage = $3 AND a.worker = $4 AND r.pool = $5 \
                  AND a.granted_at IS NOT NULL";
    let row = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(worker.to_string())
        .bind(pool.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// Adds to what is known of an attempt's end, unless its result came before.
pub(crate) async fn add_end_note(
    conn: &mut Connection,
    attempt: Attempt,
    note: &str,
) -> Result<(), StoreError> {
    let update = "UPDATE attempts SET end_note = COALESCE(end_note, 'over') || $4 \
                  WHERE run = $1 AND epoch = $2 AND stage = $3 AND is_reported = 0";
    sqlx::query(update)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(note)
        .execute(conn)
        .await?;
    Ok(())
}

/// The attempt's result came.
pub(crate) async fn set_reported(
    conn: &mut Connection,
    attempt: Attempt,
    is_log_complete: bool,
) -> Result<(), StoreError> {
    let update = "UPDATE attempts SET is_log_complete = $4, is_reported = 1 \
                  WHERE run = $1 AND epoch = $2 AND stage = $3";
    sqlx::query(update)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(i64::from(is_log_complete))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn has_workspace(
    conn: &mut Connection,
    attempt: Attempt,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM workspaces WHERE run = $1 AND epoch = $2";
    let row = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// Keeps a workspace, unless the attempt has one.
pub(crate) async fn insert_workspace(
    conn: &mut Connection,
    stored: &WorkspaceStored,
    now: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO workspaces (run, epoch, key, size, payload_sha256, payload_size, \
                  signature, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                  ON CONFLICT (run, epoch) DO NOTHING";
    sqlx::query(insert)
        .bind(stored.attempt.run.to_string())
        .bind(to_db(stored.attempt.epoch.0))
        .bind(&stored.key)
        .bind(to_db(stored.size))
        .bind(&stored.payload_sha256)
        .bind(to_db(stored.payload_size))
        .bind(&stored.signature)
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps a policy's decision, unless the attempt has one. Answers whether it had none.
pub(crate) async fn insert_decision(
    conn: &mut Connection,
    decision: &Decision,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let insert = "INSERT INTO decisions (run, epoch, stage, is_allowed, denials, policy_sha256, at) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (run, epoch, stage) DO NOTHING";
    let inserted = sqlx::query(insert)
        .bind(decision.attempt.run.to_string())
        .bind(to_db(decision.attempt.epoch.0))
        .bind(decision.attempt.stage.as_str())
        .bind(i64::from(decision.is_allowed))
        .bind(to_json(&decision.denials))
        .bind(&decision.policy_sha256)
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(inserted.rows_affected() == 1)
}

/// How many outputs of a run are kept beside those of its result.
pub(crate) async fn count_outputs(conn: &mut Connection, run: RunId) -> Result<u64, StoreError> {
    let count = "SELECT COUNT(*) AS count FROM outputs WHERE run = $1";
    sqlx::query(count).bind(run.to_string()).fetch_one(conn).await?.number("count")
}

/// Keeps an output at its place among all of the run's, unless there is one.
pub(crate) async fn insert_output(
    conn: &mut Connection,
    run: RunId,
    n: u64,
    output: &Output,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO outputs (run, n, name, is_sensitive, value) \
                  VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run, n) DO NOTHING";
    sqlx::query(insert)
        .bind(run.to_string())
        .bind(to_db(n))
        .bind(&output.name)
        .bind(i64::from(output.is_sensitive))
        .bind(output.value.as_ref().map(ToString::to_string))
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether the stack has this state version.
pub(crate) async fn has_state(
    conn: &mut Connection,
    stack: &StackId,
    payload_sha256: &str,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM states WHERE stack = $1 AND payload_sha256 = $2";
    let row =
        sqlx::query(select).bind(stack.as_str()).bind(payload_sha256).fetch_optional(conn).await?;
    Ok(row.is_some())
}

/// A new state version.
#[derive(Debug)]
pub(crate) struct NewState<'a> {
    pub(crate) id: &'a str,
    pub(crate) stack: &'a StackId,
    pub(crate) stored: &'a StateStored,
    /// As much of the stored one's as is kept.
    pub(crate) lineage: &'a str,
    /// Why it is not the stack's state, if it is not.
    pub(crate) orphaned: Option<&'a str>,
    pub(crate) created_at: Timestamp,
}

/// Keeps a state version; the stack's current one becomes it unless it is an orphaned one.
pub(crate) async fn insert_state(
    conn: &mut Connection,
    state: &NewState<'_>,
) -> Result<(), StoreError> {
    let NewState { id, stack, stored, lineage, orphaned, created_at } = *state;
    let insert = "INSERT INTO states (id, stack, run, epoch, stage, serial, lineage, header, \
        payload_sha256, payload_size, predecessor, signature, key, created_at, orphaned) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    sqlx::query(insert)
        .bind(id)
        .bind(stack.as_str())
        .bind(stored.attempt.run.to_string())
        .bind(to_db(stored.attempt.epoch.0))
        .bind(stored.attempt.stage.as_str())
        .bind(to_db(stored.serial))
        .bind(lineage)
        .bind(&stored.header)
        .bind(&stored.payload_sha256)
        .bind(to_db(stored.payload_size))
        .bind(stored.predecessor.as_deref())
        .bind(&stored.signature)
        .bind(&stored.key)
        .bind(to_db(created_at.0))
        .bind(orphaned)
        .execute(&mut *conn)
        .await?;
    if orphaned.is_none() {
        let update = "UPDATE stacks SET state_current = $2 WHERE id = $1";
        sqlx::query(update).bind(stack.as_str()).bind(id).execute(conn).await?;
    }
    Ok(())
}

/// When an attempt was granted, if it was.
pub(crate) async fn granted_at(
    conn: &mut Connection,
    attempt: Attempt,
) -> Result<Option<Timestamp>, StoreError> {
    let select = "SELECT granted_at FROM attempts WHERE run = $1 AND epoch = $2 AND stage = $3";
    let row = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .fetch_optional(conn)
        .await?;
    row.map_or(Ok(None), |row| row.maybe_instant("granted_at"))
}

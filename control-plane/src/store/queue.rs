//! What the queue looks at: stages that wait, and workers that could have them. Both sides come from
//! indexes that hold only what waits or is free.

use gantry_model::{PoolId, RunId, RunState, StackId, Timestamp, WorkerId};

use super::runs::{RUN_COLUMNS, RunRow, read_run};
use super::{Columns as _, Connection, Row, StoreError, run_state, to_db};

/// Free, and not one that leaves offers lying: what it was sent would pile up.
const IS_IDLE: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 \
                       AND w.is_passed_over = 0 AND w.run IS NULL \
                       AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.pool = w.pool \
                       AND o.worker = w.id AND o.kind = 'offer')";
const IS_DRAINED: &str = "w.is_connected = 1 AND w.is_drained = 1";
const IS_UNHEALTHY: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 0";
const IS_BUSY: &str =
    "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 AND w.run IS NOT NULL";
const IS_PASSED_OVER: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 AND w.run IS NULL \
    AND (w.is_passed_over = 1 OR EXISTS (SELECT 1 FROM outbox o WHERE o.pool = w.pool \
    AND o.worker = w.id AND o.kind = 'offer'))";

/// The pools that have both a stage that waits and a worker that is free.
pub(crate) async fn pools_with_work(conn: &mut Connection) -> Result<Vec<PoolId>, StoreError> {
    let select = format!(
        "SELECT p.id FROM pools p \
         WHERE EXISTS (SELECT 1 FROM runs r WHERE r.pool = p.id AND r.standing = 'waiting') \
         AND EXISTS (SELECT 1 FROM workers w WHERE w.pool = p.id AND {IS_IDLE})"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// The first runs of the pool that wait for a worker, by rank and age.
pub(crate) async fn waiting_runs(
    conn: &mut Connection,
    pool: PoolId,
    limit: i64,
) -> Result<Vec<RunRow>, StoreError> {
    let select = format!(
        "SELECT {RUN_COLUMNS} FROM runs r WHERE r.pool = $1 AND r.standing = 'waiting' \
         ORDER BY r.rank, r.id LIMIT $2"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(pool.to_string()).bind(limit);
    query.fetch_all(conn).await?.iter().map(read_run).collect()
}

/// The newest workers of the pool that are free, newest first.
pub(crate) async fn idle_workers(
    conn: &mut Connection,
    pool: PoolId,
    limit: i64,
) -> Result<Vec<WorkerId>, StoreError> {
    let select = format!(
        "SELECT w.id FROM workers w WHERE w.pool = $1 AND {IS_IDLE} ORDER BY w.id DESC LIMIT $2"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(pool.to_string()).bind(limit);
    query.fetch_all(conn).await?.iter().map(|row| row.parsed("id")).collect()
}

/// Whether this worker is free.
pub(crate) async fn is_idle(
    conn: &mut Connection,
    pool: PoolId,
    worker: WorkerId,
) -> Result<bool, StoreError> {
    let select = format!("SELECT 1 FROM workers w WHERE w.pool = $1 AND w.id = $2 AND {IS_IDLE}");
    let query = sqlx::query(sqlx::AssertSqlSafe(select));
    let row = query.bind(pool.to_string()).bind(worker.to_string()).fetch_optional(conn).await?;
    Ok(row.is_some())
}

/// Whether a worker is free that was never granted a stage of this run.
pub(crate) async fn is_fresh_one_idle(
    conn: &mut Connection,
    pool: PoolId,
    run: RunId,
) -> Result<bool, StoreError> {
    let select = format!(
        "SELECT 1 FROM workers w WHERE w.pool = $1 AND {IS_IDLE} AND NOT EXISTS (SELECT 1 FROM attempts a \
         WHERE a.run = $2 AND a.worker = w.id AND a.granted_at IS NOT NULL) LIMIT 1"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select));
    let row = query.bind(pool.to_string()).bind(run.to_string()).fetch_optional(conn).await?;
    Ok(row.is_some())
}

/// Whether a worker that was never granted a stage of this run could have it, were it free. Only those
/// count that were heard since `heard`.
pub(crate) async fn is_fresh_one_there(
    conn: &mut Connection,
    pool: PoolId,
    run: RunId,
    heard: Timestamp,
) -> Result<bool, StoreError> {
    let others = "SELECT 1 FROM workers w WHERE w.pool = $1 AND w.is_connected = 1 \
                  AND w.is_drained = 0 AND w.is_healthy = 1 AND w.is_passed_over = 0 \
                  AND w.heard_at >= $3 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.run = $2 AND a.worker = w.id \
                  AND a.granted_at IS NOT NULL) LIMIT 1";
    let row = sqlx::query(others)
        .bind(pool.to_string())
        .bind(run.to_string())
        .bind(to_db(heard.0))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// How many runs of its pool go before this one; no more than `limit` are counted.
pub(crate) async fn count_ahead(
    conn: &mut Connection,
    run: RunId,
    limit: u64,
) -> Result<u64, StoreError> {
    let ahead = "SELECT COUNT(*) AS n FROM (SELECT 1 FROM runs r JOIN runs own ON own.id = $1 \
                 WHERE r.pool = own.pool AND r.standing = 'waiting' \
                 AND (r.rank < own.rank OR r.rank = own.rank AND r.id < own.id) LIMIT $2) counted";
    let query = sqlx::query(ahead).bind(run.to_string()).bind(to_db(limit));
    query.fetch_one(conn).await?.number("n")
}

/// The run of the stack that goes before this one, which is queued, and its state.
pub(crate) async fn run_before(
    conn: &mut Connection,
    stack: &StackId,
    run: RunId,
) -> Result<Option<(RunId, RunState)>, StoreError> {
    let first = "SELECT r.id, r.state FROM runs r JOIN stacks s ON s.id = r.stack \
                 WHERE r.stack = $1 AND r.id <> $2 AND (r.id = s.blocker \
                 OR r.state = 'QUEUED' AND r.id < $2 \
                 AND (s.lock_by IS NULL OR s.lock_by = r.triggered_by)) \
                 ORDER BY CASE WHEN r.id = s.blocker THEN 0 ELSE 1 END, r.id LIMIT 1";
    let query = sqlx::query(first).bind(stack.as_str()).bind(run.to_string());
    let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
    Ok(Some((row.parsed("id")?, run_state(&row.text("state")?)?)))
}

/// A pool's workers, counted by what keeps them from taking a run.
#[derive(Debug, Clone)]
pub(crate) struct PoolCounts {
    pub(crate) name: String,
    pub(crate) known: u64,
    pub(crate) connected: u64,
    /// When one of them was heard last.
    pub(crate) heard_at: Timestamp,
    pub(crate) drained: u64,
    pub(crate) unhealthy: u64,
    pub(crate) busy: u64,
    pub(crate) passed_over: u64,
}

/// Counts a pool's workers. Of a worker the first thing counts that holds.
pub(crate) async fn count_workers(
    conn: &mut Connection,
    pool: PoolId,
) -> Result<PoolCounts, StoreError> {
    let count = |holds: &str| {
        format!("CAST(COALESCE(SUM(CASE WHEN {holds} THEN 1 ELSE 0 END), 0) AS BIGINT)")
    };
    let select = format!(
        "SELECT p.name, COUNT(w.id) AS known, {} AS connected, \
         COALESCE(MAX(w.heard_at), 0) AS heard_at, {} AS drained, {} AS unhealthy, {} AS busy, \
         {} AS passed_over \
         FROM pools p LEFT JOIN workers w ON w.pool = p.id WHERE p.id = $1 GROUP BY p.name",
        count("w.is_connected = 1"),
        count(IS_DRAINED),
        count(IS_UNHEALTHY),
        count(IS_BUSY),
        count(IS_PASSED_OVER)
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(pool.to_string());
    let row = query.fetch_one(conn).await?;
    Ok(PoolCounts {
        name: row.text("name")?,
        known: row.number("known")?,
        connected: row.number("connected")?,
        heard_at: row.instant("heard_at")?,
        drained: row.number("drained")?,
        unhealthy: row.number("unhealthy")?,
        busy: row.number("busy")?,
        passed_over: row.number("passed_over")?,
    })
}

/// What keeps a connected worker from taking a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hindrance {
    Drained,
    Unhealthy,
    Busy,
    PassedOver,
}

/// A worker that takes no run.
#[derive(Debug, Clone)]
pub(crate) struct Hindered {
    pub(crate) id: WorkerId,
    pub(crate) note: Option<String>,
    pub(crate) run: Option<RunId>,
}

/// Workers of a pool that this keeps from taking a run, newest first.
pub(crate) async fn hindered_workers(
    conn: &mut Connection,
    pool: PoolId,
    by: Hindrance,
    limit: i64,
) -> Result<Vec<Hindered>, StoreError> {
    let holds = match by {
        Hindrance::Drained => IS_DRAINED,
        Hindrance::Unhealthy => IS_UNHEALTHY,
        Hindrance::Busy => IS_BUSY,
        Hindrance::PassedOver => IS_PASSED_OVER,
    };
    let select = format!(
        "SELECT w.id, w.note, w.run FROM workers w WHERE w.pool = $1 AND {holds} \
         ORDER BY w.id DESC LIMIT $2"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(pool.to_string()).bind(limit);
    let worker = |row: &Row| {
        Ok(Hindered {
            id: row.parsed("id")?,
            note: row.maybe_text("note")?,
            run: row.maybe_parsed("run")?,
        })
    };
    query.fetch_all(conn).await?.iter().map(worker).collect()
}

/// How the owner of a run is.
#[derive(Debug, Clone)]
pub(crate) struct OwnerHealth {
    pub(crate) is_connected: bool,
    pub(crate) is_healthy: bool,
    pub(crate) note: Option<String>,
    pub(crate) heard_at: Timestamp,
}

/// How a worker is, if it is known.
pub(crate) async fn find_owner_health(
    conn: &mut Connection,
    pool: PoolId,
    worker: WorkerId,
) -> Result<Option<OwnerHealth>, StoreError> {
    let select = "SELECT is_connected, is_healthy, note, heard_at FROM workers \
                  WHERE pool = $1 AND id = $2";
    let query = sqlx::query(select).bind(pool.to_string()).bind(worker.to_string());
    let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
    Ok(Some(OwnerHealth {
        is_connected: row.flag("is_connected")?,
        is_healthy: row.flag("is_healthy")?,
        note: row.maybe_text("note")?,
        heard_at: row.instant("heard_at")?,
    }))
}

/// A worker has no session until its next hello.
pub(crate) async fn disconnect_worker(
    conn: &mut Connection,
    pool: PoolId,
    worker: WorkerId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET is_connected = 0 WHERE pool = $1 AND id = $2")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

//! What of the `runs` table has a time at which something is due.

use gantry_model::{PoolId, RunId, Timestamp};

use super::{Columns as _, Connection, StoreError, WorkerKey, to_db};

/// Every run of which something will be due.
pub(crate) async fn list_held(conn: &mut Connection) -> Result<Vec<RunId>, StoreError> {
    let select = "SELECT id FROM runs WHERE due_at IS NOT NULL";
    let rows = sqlx::query(select).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// The runs of which something is due, the longest overdue first.
pub(crate) async fn list_due(
    conn: &mut Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<RunId>, StoreError> {
    let select = "SELECT id FROM runs WHERE due_at <= $1 ORDER BY due_at LIMIT $2";
    let rows =
        sqlx::query(select).bind(to_db(now.0)).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// The runs that a worker has.
pub(crate) async fn list_of_worker(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<Vec<RunId>, StoreError> {
    let select = "SELECT id FROM runs WHERE pool = $1 AND worker = $2";
    let rows =
        sqlx::query(select).bind(pool.to_string()).bind(worker.to_string()).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// The runs whose read stage a worker of the pool has.
pub(crate) async fn list_read_stages(
    conn: &mut Connection,
    pool: PoolId,
) -> Result<Vec<RunId>, StoreError> {
    let select = "SELECT id FROM runs WHERE pool = $1 AND worker IS NOT NULL AND stage = 'read'";
    let rows = sqlx::query(select).bind(pool.to_string()).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// When the first run or message is due.
pub(crate) async fn next_due(conn: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let first = "SELECT MIN(at) AS at FROM (SELECT MIN(due_at) AS at FROM runs \
                 WHERE due_at IS NOT NULL UNION ALL SELECT MIN(next_at) AS at FROM outbox) AS due";
    sqlx::query(first).fetch_one(conn).await?.maybe_instant("at")
}

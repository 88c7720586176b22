//! Rows that nobody needs any more: found and deleted, some at a time.

use gantry_model::{PoolId, RunId, Timestamp, WorkerId};

use super::{Columns as _, Connection, Row, StoreError, to_db};

/// Workers `w` that nobody misses.
const IS_OLD: &str = "w.heard_at < $1 AND w.run IS NULL AND NOT EXISTS \
    (SELECT 1 FROM runs r WHERE r.pool = w.pool AND r.worker = w.id)";

/// Workers without a run that were not heard since `before`.
pub(crate) async fn old_workers(
    conn: &mut Connection,
    before: Timestamp,
    limit: i64,
) -> Result<Vec<(PoolId, WorkerId)>, StoreError> {
    let select = format!("SELECT w.pool, w.id FROM workers w WHERE {IS_OLD} LIMIT $2");
    let query = sqlx::query(sqlx::AssertSqlSafe(select)).bind(to_db(before.0)).bind(limit);
    let key = |row: &Row| Ok((row.parsed("pool")?, row.parsed("id")?));
    query.fetch_all(conn).await?.iter().map(key).collect()
}

/// Deletes such a worker and what was to be sent to it. False if it is none any more.
pub(crate) async fn delete_old_worker(
    conn: &mut Connection,
    pool: PoolId,
    worker: WorkerId,
    before: Timestamp,
) -> Result<bool, StoreError> {
    let delete = format!("DELETE FROM workers AS w WHERE {IS_OLD} AND w.pool = $2 AND w.id = $3");
    let deleted = sqlx::query(sqlx::AssertSqlSafe(delete))
        .bind(to_db(before.0))
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(&mut *conn)
        .await?;
    if deleted.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("DELETE FROM outbox WHERE pool = $1 AND worker = $2")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(conn)
        .await?;
    Ok(true)
}

/// Deletes journals that were not heard of since `before`; answers how many.
pub(crate) async fn delete_old_journals(
    conn: &mut Connection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, StoreError> {
    let delete = "DELETE FROM journals WHERE (pool, worker, journal) IN \
                  (SELECT pool, worker, journal FROM journals WHERE heard_at < $1 LIMIT $2)";
    let deleted = sqlx::query(delete).bind(to_db(before.0)).bind(limit).execute(conn).await?;
    Ok(deleted.rows_affected())
}

/// Deletes nonces that were used before; answers how many.
pub(crate) async fn delete_old_nonces(
    conn: &mut Connection,
    before: Timestamp,
    limit: i64,
) -> Result<u64, StoreError> {
    let delete = "DELETE FROM nonces WHERE (pool, worker, nonce) IN \
                  (SELECT pool, worker, nonce FROM nonces WHERE at < $1 LIMIT $2)";
    let deleted = sqlx::query(delete).bind(to_db(before.0)).bind(limit).execute(conn).await?;
    Ok(deleted.rows_affected())
}

/// Runs of which workspaces and specs can go by now.
pub(crate) async fn runs_to_clear(
    conn: &mut Connection,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<RunId>, StoreError> {
    let due = "SELECT id FROM runs WHERE clear_at <= $1 ORDER BY clear_at LIMIT $2";
    let rows = sqlx::query(due).bind(to_db(now.0)).bind(limit).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

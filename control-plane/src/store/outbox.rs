//! Messages that their worker's session has not acknowledged yet: the `outbox` table.

use gantry_model::{MessageId, PoolId, Timestamp};

use super::{Columns as _, Connection, Row, StoreError, WorkerKey, to_db};

/// A message that was not acknowledged yet.
#[derive(Debug)]
pub(crate) struct OutboxRow {
    pub(crate) worker: WorkerKey,
    pub(crate) seq: u64,
    pub(crate) id: MessageId,
    pub(crate) kind: String,
    /// JSON.
    pub(crate) body: String,
}

pub(crate) async fn insert_message(
    conn: &mut Connection,
    message: &OutboxRow,
    next_at: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO outbox (pool, worker, seq, id, kind, body, next_at) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sqlx::query(insert)
        .bind(message.worker.0.to_string())
        .bind(message.worker.1.to_string())
        .bind(to_db(message.seq))
        .bind(message.id.to_string())
        .bind(&message.kind)
        .bind(&message.body)
        .bind(to_db(next_at.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Those that have to be sent again by now, the longest overdue first.
pub(crate) async fn list_due(
    conn: &mut Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<OutboxRow>, StoreError> {
    let select = "SELECT o.pool, o.worker, o.seq, o.id, o.kind, o.body FROM outbox o \
                  WHERE o.next_at <= $1 ORDER BY o.next_at, o.seq LIMIT $2";
    let rows =
        sqlx::query(select).bind(to_db(now.0)).bind(i64::from(limit)).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// The message has to be sent again at `next_at`. Answers whether it still has to.
pub(crate) async fn postpone(
    conn: &mut Connection,
    message: &OutboxRow,
    next_at: Timestamp,
) -> Result<bool, StoreError> {
    let update = "UPDATE outbox SET next_at = $4 \
                  WHERE pool = $1 AND worker = $2 AND seq = $3 AND id = $5";
    let updated = sqlx::query(update)
        .bind(message.worker.0.to_string())
        .bind(message.worker.1.to_string())
        .bind(to_db(message.seq))
        .bind(to_db(next_at.0))
        .bind(message.id.to_string())
        .execute(conn)
        .await?;
    Ok(updated.rows_affected() == 1)
}

/// Deletes what a worker acknowledged, and answers how many messages that was.
pub(crate) async fn delete_acknowledged(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    up_to: u64,
) -> Result<u64, StoreError> {
    let delete = "DELETE FROM outbox WHERE pool = $1 AND worker = $2 AND seq <= $3";
    let deleted = sqlx::query(delete)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(to_db(up_to))
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected())
}

pub(crate) async fn delete_of_worker(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
) -> Result<(), StoreError> {
    let delete = "DELETE FROM outbox WHERE pool = $1 AND worker = $2";
    sqlx::query(delete).bind(pool.to_string()).bind(worker.to_string()).execute(conn).await?;
    Ok(())
}

pub(crate) async fn delete_of_pool(conn: &mut Connection, pool: PoolId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox WHERE pool = $1").bind(pool.to_string()).execute(conn).await?;
    Ok(())
}

pub(crate) async fn delete_all(conn: &mut Connection) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox").execute(conn).await?;
    Ok(())
}

fn read(row: &Row) -> Result<OutboxRow, StoreError> {
    Ok(OutboxRow {
        worker: (row.parsed("pool")?, row.parsed("worker")?),
        seq: row.number("seq")?,
        id: row.parsed("id")?,
        kind: row.text("kind")?,
        body: row.text("body")?,
    })
}

//! What is known of launchers' sessions: the `nonces` of their hellos and how far their `journals` were
//! taken in.

use gantry_model::{JournalId, Timestamp};

use super::{Columns as _, Connection, StoreError, WorkerKey, to_db};

pub(crate) async fn has_nonce(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    nonce: &str,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM nonces WHERE pool = $1 AND worker = $2 AND nonce = $3";
    let row = sqlx::query(select)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(nonce)
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(crate) async fn insert_nonce(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    nonce: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO nonces (pool, worker, nonce, at) VALUES ($1, $2, $3, $4)";
    sqlx::query(insert)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(nonce)
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that a journal was heard, and answers how far it was taken in; 0 for a new one.
pub(crate) async fn note_journal(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    journal: JournalId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let upsert = "INSERT INTO journals (pool, worker, journal, received, heard_at) \
                  VALUES ($1, $2, $3, 0, $4) \
                  ON CONFLICT (pool, worker, journal) DO UPDATE SET heard_at = $4 \
                  RETURNING received";
    let row = sqlx::query(upsert)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(journal.to_string())
        .bind(to_db(now.0))
        .fetch_one(conn)
        .await?;
    row.number("received")
}

/// A journal was taken in up to here.
pub(crate) async fn set_received(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    journal: JournalId,
    up_to: u64,
) -> Result<(), StoreError> {
    let update = "UPDATE journals SET received = $4 \
                  WHERE pool = $1 AND worker = $2 AND journal = $3 AND received < $4";
    sqlx::query(update)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(journal.to_string())
        .bind(to_db(up_to))
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes all but the newest nonces of a worker.
pub(crate) async fn keep_nonces(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    most: u32,
) -> Result<(), StoreError> {
    let delete = "DELETE FROM nonces WHERE pool = $1 AND worker = $2 AND nonce NOT IN \
                  (SELECT nonce FROM nonces WHERE pool = $1 AND worker = $2 \
                  ORDER BY at DESC, nonce DESC LIMIT $3)";
    sqlx::query(delete)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(i64::from(most))
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes all but those journals of a worker that were heard last.
pub(crate) async fn keep_journals(
    conn: &mut Connection,
    (pool, worker): WorkerKey,
    most: u32,
) -> Result<(), StoreError> {
    let delete = "DELETE FROM journals WHERE pool = $1 AND worker = $2 AND journal NOT IN \
                  (SELECT journal FROM journals WHERE pool = $1 AND worker = $2 \
                  ORDER BY heard_at DESC, journal DESC LIMIT $3)";
    sqlx::query(delete)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(i64::from(most))
        .execute(conn)
        .await?;
    Ok(())
}

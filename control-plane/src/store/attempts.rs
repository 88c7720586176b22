//! Tries at the stages of runs, in the database.

use gantry_model::{Attempt, Epoch, RunId, Timestamp, WorkerId};

use super::{Columns as _, Connection, Row, StoreError, stage, to_db};

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

/// The tries at a run's stages, oldest first.
pub(crate) async fn list_attempts(
    conn: &mut Connection,
    run: RunId,
) -> Result<Vec<AttemptRecord>, StoreError> {
    let select = "SELECT * FROM attempts WHERE run = $1 ORDER BY epoch, stage";
    let rows = sqlx::query(select).bind(run.to_string()).fetch_all(conn).await?;
    let record = |row: &Row| {
        let (stage, epoch) = (stage(&row.text("stage")?)?, Epoch(row.number("epoch")?));
        Ok(AttemptRecord {
            attempt: Attempt { run, stage, epoch },
            worker: row.parsed("worker")?,
            offered_at: row.instant("offered_at")?,
            granted_at: row.maybe_instant("granted_at")?,
            ended_at: row.maybe_instant("ended_at")?,
            end_note: row.maybe_text("end_note")?,
            is_log_complete: row.flag("is_log_complete")?,
        })
    };
    rows.iter().map(record).collect()
}

/// The workers to which a stage of the run was granted.
pub(crate) async fn workers_granted(
    conn: &mut Connection,
    run: RunId,
) -> Result<Vec<WorkerId>, StoreError> {
    let select = "SELECT worker FROM attempts WHERE run = $1 AND granted_at IS NOT NULL";
    let rows = sqlx::query(select).bind(run.to_string()).fetch_all(conn).await?;
    rows.iter().map(|row| row.parsed("worker")).collect()
}

/// A worker was asked.
pub(crate) async fn begin_attempt(
    conn: &mut Connection,
    attempt: Attempt,
    worker: WorkerId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO attempts (run, epoch, stage, worker, offered_at, is_reported, \
                  is_log_complete) VALUES ($1, $2, $3, $4, $5, 0, 0)";
    sqlx::query(insert)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(worker.to_string())
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Its worker became the owner.
pub(crate) async fn grant_attempt(
    conn: &mut Connection,
    attempt: Attempt,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE attempts SET granted_at = $4 WHERE run = $1 AND epoch = $2 AND stage = $3";
    sqlx::query(update)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(to_db(now.0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Its worker has it no more. The first end counts.
pub(crate) async fn end_attempt(
    conn: &mut Connection,
    attempt: Attempt,
    note: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let update = "UPDATE attempts SET ended_at = $4, end_note = $5 \
                  WHERE run = $1 AND epoch = $2 AND stage = $3 AND ended_at IS NULL";
    sqlx::query(update)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(to_db(now.0))
        .bind(note)
        .execute(conn)
        .await?;
    Ok(())
}

//! The index of the logs: which segments there are, and whether they are all.

use gantry_model::{Attempt, RunId};
use gantry_protocol::message::{Closing, Segment};
use sqlx::Row as _;

use crate::store::{StoreError, from_db, section_rank, to_db};
use crate::unit::Unit;

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is part of the log.
    Kept,
    /// It was already.
    Known,
    /// It does not follow what there is; it would have to start here.
    Gap(u64),
}

/// Puts a segment at the end of its section. `run_start` is where in the whole run's log it goes, if
/// it goes there.
pub(crate) async fn append(
    unit: &mut Unit,
    segment: &Segment,
    run_start: Option<u64>,
) -> Result<Appended, StoreError> {
    let end = section_length(unit, segment.attempt, section_rank(segment.section)).await?;
    if segment.offset != end {
        let is_known = is_known(unit, segment).await?;
        return Ok(if is_known { Appended::Known } else { Appended::Gap(end) });
    }
    let insert = "INSERT INTO segments (run, epoch, stage, section, start, length, sha256, key, \
                  run_start) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    sqlx::query(insert)
        .bind(segment.attempt.run.to_string())
        .bind(to_db(segment.attempt.epoch.0))
        .bind(segment.attempt.stage.as_str())
        .bind(section_rank(segment.section))
        .bind(to_db(segment.offset))
        .bind(to_db(segment.length))
        .bind(&segment.sha256)
        .bind(&segment.key)
        .bind(run_start.map(to_db))
        .execute(unit.conn())
        .await?;
    Ok(Appended::Kept)
}

async fn is_known(unit: &mut Unit, segment: &Segment) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM segments WHERE run = $1 AND epoch = $2 AND stage = $3 \
                  AND section = $4 AND start = $5 AND length = $6 AND sha256 = $7";
    let row = sqlx::query(select)
        .bind(segment.attempt.run.to_string())
        .bind(to_db(segment.attempt.epoch.0))
        .bind(segment.attempt.stage.as_str())
        .bind(section_rank(segment.section))
        .bind(to_db(segment.offset))
        .bind(to_db(segment.length))
        .bind(&segment.sha256)
        .fetch_optional(unit.conn())
        .await?;
    Ok(row.is_some())
}

async fn section_length(
    unit: &mut Unit,
    attempt: Attempt,
    section: i64,
) -> Result<u64, StoreError> {
    let last = "SELECT start + length AS length FROM segments WHERE run = $1 AND epoch = $2 \
                AND stage = $3 AND section = $4 ORDER BY start DESC LIMIT 1";
    let row = sqlx::query(last)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(section)
        .fetch_optional(unit.conn())
        .await?;
    Ok(row.map_or(0, |row| from_db(row.get("length"))))
}

/// Where the run's whole log goes on behind a segment of this length.
pub(crate) async fn grow_run(unit: &mut Unit, run: RunId, length: u64) -> Result<(), StoreError> {
    sqlx::query("UPDATE runs SET log_length = log_length + $2 WHERE id = $1")
        .bind(run.to_string())
        .bind(to_db(length))
        .execute(unit.conn())
        .await?;
    Ok(())
}

/// Notes how long the sections of an attempt's log are.
pub(crate) async fn note_closings(
    unit: &mut Unit,
    attempt: Attempt,
    closings: &[Closing],
) -> Result<(), StoreError> {
    for closing in closings {
        let insert = "INSERT INTO closings (run, epoch, stage, section, length) \
                      VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        sqlx::query(insert)
            .bind(attempt.run.to_string())
            .bind(to_db(attempt.epoch.0))
            .bind(attempt.stage.as_str())
            .bind(section_rank(closing.section))
            .bind(to_db(closing.length))
            .execute(unit.conn())
            .await?;
    }
    Ok(())
}

/// Compares an attempt's closed log with what is stored of it; call it after its result. Answers
/// whether nothing is missing.
pub(crate) async fn refresh_complete(
    unit: &mut Unit,
    attempt: Attempt,
) -> Result<bool, StoreError> {
    let select =
        "SELECT section, length FROM closings WHERE run = $1 AND epoch = $2 AND stage = $3";
    let closings = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .fetch_all(unit.conn())
        .await?;
    let mut is_complete = true;
    for row in closings {
        let stored = section_length(unit, attempt, row.get("section")).await?;
        is_complete &= stored == from_db(row.get("length"));
    }
    let update = "UPDATE attempts SET is_log_complete = $4, is_reported = 1 \
                  WHERE run = $1 AND epoch = $2 AND stage = $3";
    sqlx::query(update)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(i64::from(is_complete))
        .execute(unit.conn())
        .await?;
    Ok(is_complete)
}

//! The index of the logs: the `segments` that are stored, and the `closings` that say how long the sections
//! of an attempt's log are.

use gantry_model::{Attempt, Epoch, RunId, Section};
use gantry_protocol::message::{Closing, Segment};

use super::{Columns as _, Connection, Row, StoreError, section, section_rank, stage, to_db};

/// A section of an attempt's log, as far as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    /// The attempt.
    pub attempt: Attempt,
    /// The section.
    pub section: Section,
    /// How many bytes of it are stored.
    pub length: u64,
    /// Whether that is all of it.
    pub is_complete: bool,
}

/// Where a segment of a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    /// Where in what was asked for it begins.
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) key: String,
}

/// Puts a segment into the index. `run_start` is where in the whole run's log it goes, if it goes there.
pub(crate) async fn insert_segment(
    conn: &mut Connection,
    segment: &Segment,
    run_start: Option<u64>,
) -> Result<(), StoreError> {
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
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether the very segment is in the index.
pub(crate) async fn has_segment(
    conn: &mut Connection,
    segment: &Segment,
) -> Result<bool, StoreError> {
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
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// How many bytes of a section are stored.
pub(crate) async fn section_length(
    conn: &mut Connection,
    attempt: Attempt,
    section: Section,
) -> Result<u64, StoreError> {
    let last = "SELECT start + length AS length FROM segments WHERE run = $1 AND epoch = $2 \
                AND stage = $3 AND section = $4 ORDER BY start DESC LIMIT 1";
    let row = sqlx::query(last)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(section_rank(section))
        .fetch_optional(conn)
        .await?;
    row.map_or(Ok(0), |row| row.number("length"))
}

/// The run's whole log has become so much longer.
pub(crate) async fn grow_run(
    conn: &mut Connection,
    run: RunId,
    length: u64,
) -> Result<(), StoreError> {
    let update = "UPDATE runs SET log_length = log_length + $2 WHERE id = $1";
    sqlx::query(update).bind(run.to_string()).bind(to_db(length)).execute(conn).await?;
    Ok(())
}

/// Notes how long a section of an attempt's log is, unless that is known.
pub(crate) async fn insert_closing(
    conn: &mut Connection,
    attempt: Attempt,
    closing: &Closing,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO closings (run, epoch, stage, section, length) \
                  VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run, epoch, stage, section) DO NOTHING";
    sqlx::query(insert)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(section_rank(closing.section))
        .bind(to_db(closing.length))
        .execute(conn)
        .await?;
    Ok(())
}

/// How long the sections of an attempt's log are, as far as that is known.
pub(crate) async fn list_closings(
    conn: &mut Connection,
    attempt: Attempt,
) -> Result<Vec<Closing>, StoreError> {
    let select =
        "SELECT section, length FROM closings WHERE run = $1 AND epoch = $2 AND stage = $3";
    let rows = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .fetch_all(conn)
        .await?;
    let read = |row: &Row| {
        Ok(Closing { section: section(row.integer("section")?)?, length: row.number("length")? })
    };
    rows.iter().map(read).collect()
}

/// The sections of a run's log, in the order of attempts and phases.
pub(crate) async fn list_sections(
    conn: &mut Connection,
    run: RunId,
) -> Result<Vec<LogSection>, StoreError> {
    let select = "SELECT g.epoch, g.stage, g.section, MAX(g.start + g.length) AS length, \
        (SELECT c.length FROM closings c WHERE c.run = g.run AND c.epoch = g.epoch \
         AND c.stage = g.stage AND c.section = g.section) AS closed \
        FROM segments g WHERE g.run = $1 GROUP BY g.run, g.epoch, g.stage, g.section \
        ORDER BY g.epoch, g.stage, g.section";
    let rows = sqlx::query(select).bind(run.to_string()).fetch_all(conn).await?;
    let read = |row: &Row| {
        let epoch = Epoch(row.number("epoch")?);
        let length = row.integer("length")?;
        Ok(LogSection {
            attempt: Attempt { run, stage: stage(&row.text("stage")?)?, epoch },
            section: section(row.integer("section")?)?,
            length: row.number("length")?,
            is_complete: row.maybe_integer("closed")? == Some(length),
        })
    };
    rows.iter().map(read).collect()
}

/// The segments of a run's whole log that end behind `from`, in their order.
pub(crate) async fn list_segments(
    conn: &mut Connection,
    run: RunId,
    from: u64,
    limit: u32,
) -> Result<Vec<SegmentRow>, StoreError> {
    // The second condition bounds the search to the one segment that `from` lies in and what follows.
    let select = "SELECT run_start AS start, length, key FROM segments WHERE run = $1 \
        AND run_start >= COALESCE((SELECT MAX(run_start) FROM segments WHERE run = $1 \
        AND run_start <= $2), 0) AND run_start + length > $2 ORDER BY run_start LIMIT $3";
    let rows = sqlx::query(select)
        .bind(run.to_string())
        .bind(to_db(from))
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await?;
    rows.iter().map(read_segment).collect()
}

/// The segments of one section that end behind `from`, in their order.
pub(crate) async fn list_section_segments(
    conn: &mut Connection,
    attempt: Attempt,
    section: Section,
    from: u64,
    limit: u32,
) -> Result<Vec<SegmentRow>, StoreError> {
    let select = "SELECT start, length, key FROM segments WHERE run = $1 AND start + length > $2 \
        AND epoch = $4 AND stage = $5 AND section = $6 AND start >= COALESCE((SELECT MAX(start) \
        FROM segments WHERE run = $1 AND epoch = $4 AND stage = $5 AND section = $6 \
        AND start <= $2), 0) ORDER BY start LIMIT $3";
    let rows = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(from))
        .bind(i64::from(limit))
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(section_rank(section))
        .fetch_all(conn)
        .await?;
    rows.iter().map(read_segment).collect()
}

/// Whether it is known how long a section is.
pub(crate) async fn is_closed(
    conn: &mut Connection,
    attempt: Attempt,
    section: Section,
) -> Result<bool, StoreError> {
    let select = "SELECT 1 FROM closings WHERE run = $1 AND epoch = $2 AND stage = $3 \
                  AND section = $4";
    let row = sqlx::query(select)
        .bind(attempt.run.to_string())
        .bind(to_db(attempt.epoch.0))
        .bind(attempt.stage.as_str())
        .bind(section_rank(section))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

fn read_segment(row: &Row) -> Result<SegmentRow, StoreError> {
    Ok(SegmentRow {
        start: row.number("start")?,
        length: row.number("length")?,
        key: row.text("key")?,
    })
}

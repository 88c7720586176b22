//! Logs of runs, as people read them.

use bytes::{Bytes, BytesMut};
use gantry_model::{Attempt, Epoch, RunId, Section};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{Connection, Row, from_db, section, section_rank, stage, to_db};

/// The most bytes of one answer.
const MAX_PART: usize = 1024 * 1024;
/// The most segments of one answer.
const MAX_SEGMENTS: i64 = 256;

/// Which part of a run's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogScope {
    /// Everything that came while its attempt was current, in the order in which it came. Grows at its end only.
    Run,
    /// One section of one attempt, be it current or not.
    Section(Attempt, Section),
}

/// Some of a run's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The bytes from the offset that was asked for.
    pub bytes: Bytes,
    /// The offset behind them.
    pub next: u64,
    /// Whether nothing will follow them.
    pub is_finished: bool,
}

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

impl ControlPlane {
    /// The sections of a run's log, in the order of attempts and phases.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn log_sections(&self, run: RunId) -> Result<Vec<LogSection>, OperationError> {
        self.run(run).await?;
        let mut conn = self.store().read().await?;
        let select = "SELECT g.epoch, g.stage, g.section, MAX(g.start + g.length) AS length, \
            (SELECT c.length FROM closings c WHERE c.run = g.run AND c.epoch = g.epoch \
             AND c.stage = g.stage AND c.section = g.section) AS closed \
            FROM segments g WHERE g.run = $1 GROUP BY g.run, g.epoch, g.stage, g.section \
            ORDER BY g.epoch, g.stage, g.section";
        let rows = sqlx::query(select).bind(run.to_string()).fetch_all(&mut *conn).await?;
        let mut sections = Vec::new();
        for row in rows {
            let length = row.get::<i64, _>("length");
            sections.push(LogSection {
                attempt: Attempt {
                    run,
                    stage: stage(row.get("stage"))?,
                    epoch: Epoch(from_db(row.get("epoch"))),
                },
                section: section(row.get("section"))?,
                length: from_db(length),
                is_complete: row.get::<Option<i64>, _>("closed") == Some(length),
            });
        }
        Ok(sections)
    }

    /// Reads a run's log from an offset, at most `max` bytes and at most 1 MiB.
    ///
    /// # Errors
    /// When there is no such run or the object store fails.
    pub async fn read_log(
        &self,
        run: RunId,
        scope: LogScope,
        from: u64,
        max: usize,
    ) -> Result<LogPart, OperationError> {
        let max = max.clamp(1, MAX_PART);
        // Whether it is over is looked up first: what is stored after that is read the next time.
        let is_over = self.is_log_over(run, scope).await?;
        let rows = {
            let mut conn = self.store().read().await?;
            segments(&mut conn, run, scope, from).await?
        };
        let mut bytes = BytesMut::new();
        let mut next = from;
        let mut is_cut = false;
        let mut seen = 0;
        for row in rows {
            let start = from_db(row.get("start"));
            let end = start + from_db(row.get("length"));
            seen += 1;
            if start > next || bytes.len() == max {
                is_cut = true;
                break;
            }
            let room = (max - bytes.len()) as u64;
            let range = next - start..(end - start).min(next - start + room);
            let wanted = range.end - range.start;
            let part = self.objects().get_range(row.get("key"), range).await?;
            if part.len() as u64 != wanted {
                let what = format!("a segment of the log of run {run} is shorter than it was");
                return Err(OperationError::Conflict(what));
            }
            next += wanted;
            bytes.extend_from_slice(&part);
            is_cut = next < end;
        }
        let is_finished = is_over && !is_cut && seen < MAX_SEGMENTS;
        Ok(LogPart { bytes: bytes.freeze(), next, is_finished })
    }

    async fn is_log_over(&self, run: RunId, scope: LogScope) -> Result<bool, OperationError> {
        let state = self.run(run).await?.state;
        let LogScope::Section(attempt, section) = scope else { return Ok(state.is_terminal()) };
        let mut conn = self.store().read().await?;
        let select = "SELECT 1 FROM closings WHERE run = $1 AND epoch = $2 AND stage = $3 \
                      AND section = $4";
        let closed = sqlx::query(select)
            .bind(run.to_string())
            .bind(to_db(attempt.epoch.0))
            .bind(attempt.stage.as_str())
            .bind(section_rank(section))
            .fetch_optional(&mut *conn)
            .await?;
        Ok(closed.is_some() || state.is_terminal())
    }
}

/// The segments that end behind `from`, in their order.
async fn segments(
    conn: &mut Connection,
    run: RunId,
    scope: LogScope,
    from: u64,
) -> Result<Vec<Row>, OperationError> {
    // The second condition bounds the search to the one segment that `from` lies in and what follows.
    let whole = "SELECT run_start AS start, length, key FROM segments WHERE run = $1 \
        AND run_start >= COALESCE((SELECT MAX(run_start) FROM segments WHERE run = $1 \
        AND run_start <= $2), 0) AND run_start + length > $2 ORDER BY run_start LIMIT $3";
    let one = "SELECT start, length, key FROM segments WHERE run = $1 AND start + length > $2 \
        AND epoch = $4 AND stage = $5 AND section = $6 AND start >= COALESCE((SELECT MAX(start) \
        FROM segments WHERE run = $1 AND epoch = $4 AND stage = $5 AND section = $6 \
        AND start <= $2), 0) ORDER BY start LIMIT $3";
    let query = match scope {
        LogScope::Run => {
            sqlx::query(whole).bind(run.to_string()).bind(to_db(from)).bind(MAX_SEGMENTS)
        }
        LogScope::Section(attempt, section) => sqlx::query(one)
            .bind(run.to_string())
            .bind(to_db(from))
            .bind(MAX_SEGMENTS)
            .bind(to_db(attempt.epoch.0))
            .bind(attempt.stage.as_str())
            .bind(section_rank(section)),
    };
    Ok(query.fetch_all(conn).await?)
}

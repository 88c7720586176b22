//! The index of the logs: which segments there are, and whether they are all.

use gantry_model::Attempt;
use gantry_protocol::message::{Closing, Segment};

use crate::store::{Connection, StoreError, logs, results};

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
    conn: &mut Connection,
    segment: &Segment,
    run_start: Option<u64>,
) -> Result<Appended, StoreError> {
    let end = logs::section_length(conn, segment.attempt, segment.section).await?;
    if segment.offset != end {
        let is_known = logs::has_segment(conn, segment).await?;
        return Ok(if is_known { Appended::Known } else { Appended::Gap(end) });
    }
    logs::insert_segment(conn, segment, run_start).await?;
    if run_start.is_some() {
        logs::grow_run(conn, segment.attempt.run, segment.length).await?;
    }
    Ok(Appended::Kept)
}

/// Notes how long the sections of an attempt's log are; call it with the attempt's result. Answers whether
/// all of it is stored.
pub(crate) async fn close(
    conn: &mut Connection,
    attempt: Attempt,
    closings: &[Closing],
) -> Result<bool, StoreError> {
    for closing in closings {
        logs::insert_closing(conn, attempt, closing).await?;
    }
    let mut is_complete = true;
    for closing in logs::list_closings(conn, attempt).await? {
        let stored = logs::section_length(conn, attempt, closing.section).await?;
        is_complete &= stored == closing.length;
    }
    results::set_reported(conn, attempt, is_complete).await?;
    Ok(is_complete)
}

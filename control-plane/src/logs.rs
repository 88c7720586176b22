//! Logs of runs, as people read them.

pub(crate) mod index;

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gantry_model::{Attempt, RunId, RunState, Section};

use crate::core::Core;
use crate::error::OperationError;
use crate::objects::Objects;
use crate::store::{load_run, logs};

pub use crate::store::logs::LogSection;

/// The most bytes of one answer.
const MAX_PART: usize = 1024 * 1024;
/// The most segments of one answer.
const MAX_SEGMENTS: u32 = 256;

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

/// The logs of runs. Clones are the same.
#[derive(Clone)]
pub struct Logs {
    core: Core,
    objects: Arc<dyn Objects>,
}

impl Deref for Logs {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Logs {
    pub(crate) fn new(core: Core, objects: Arc<dyn Objects>) -> Self {
        Self { core, objects }
    }

    /// The sections of a run's log, in the order of attempts and phases.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn log_sections(&self, run: RunId) -> Result<Vec<LogSection>, OperationError> {
        self.state(run).await?;
        let mut conn = self.store().read().await?;
        Ok(logs::list_sections(&mut conn, run).await?)
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
        let segments = {
            let mut conn = self.store().read().await?;
            match scope {
                LogScope::Run => logs::list_segments(&mut conn, run, from, MAX_SEGMENTS).await?,
                LogScope::Section(attempt, section) => {
                    let most = MAX_SEGMENTS;
                    logs::list_section_segments(&mut conn, attempt, section, from, most).await?
                }
            }
        };
        let mut bytes = BytesMut::new();
        let mut next = from;
        let mut is_cut = false;
        let mut seen = 0;
        for segment in segments {
            let start = segment.start;
            let end = start + segment.length;
            seen += 1;
            if start > next || bytes.len() == max {
                is_cut = true;
                break;
            }
            let room = (max - bytes.len()) as u64;
            let range = next - start..(end - start).min(next - start + room);
            let wanted = range.end - range.start;
            let part = self.objects.get_range(&segment.key, range).await?;
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

    async fn state(&self, run: RunId) -> Result<RunState, OperationError> {
        let mut conn = self.store().read().await?;
        let row = load_run(&mut conn, run).await?;
        Ok(row.ok_or_else(|| OperationError::not_found("run", run))?.lifecycle.state())
    }

    async fn is_log_over(&self, run: RunId, scope: LogScope) -> Result<bool, OperationError> {
        let state = self.state(run).await?;
        let LogScope::Section(attempt, section) = scope else { return Ok(state.is_terminal()) };
        let mut conn = self.store().read().await?;
        let closed = logs::is_closed(&mut conn, attempt, section).await?;
        Ok(closed || state.is_terminal())
    }
}

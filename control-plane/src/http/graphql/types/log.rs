//! A run's log as public clients read it: by state, in portions, with a token for the next one.

use async_graphql::{Result, SimpleObject};
use gantry_model::{RunId, RunState as State, Section};

use super::word::RunState;
use crate::http::Operations;
use crate::http::graphql::error::{invalid, refused};
use crate::logs::LogScope;
use crate::runs::{AttemptRecord, HistoryEntry};

/// The most bytes of one portion.
const PORTION: usize = 64 * 1024;
/// For how long after a state its log may still grow: its last bytes and the next phase's begin are
/// told in any order.
const LINGER_MS: u64 = 5000;

/// A portion of a log.
#[derive(Default, SimpleObject)]
pub(crate) struct RunLogs {
    /// Whether something was written.
    exists: bool,
    /// Whether nothing follows.
    finished: bool,
    /// Whether more can be had at once.
    has_more: bool,
    /// The texts.
    messages: Vec<RunLogMessage>,
    /// What to ask with for what follows.
    next_token: Option<String>,
}

/// A text of a log.
#[derive(SimpleObject)]
pub(crate) struct RunLogMessage {
    /// The text; what is not UTF-8 in it is replaced.
    message: String,
}

/// The part of an attempt's log that is written while the run shows this state.
pub(crate) fn section_of(state: State) -> Option<Section> {
    match state {
        State::Preparing | State::PreparingApply => Some(Section::Prepare),
        State::Initializing => Some(Section::Initialize),
        State::Planning => Some(Section::Plan),
        State::Applying => Some(Section::Apply),
        State::Performing => Some(Section::Perform),
        State::Destroying => Some(Section::Destroy),
        State::Finished | State::Failed | State::Stopped => Some(Section::Conclude),
        State::Queued
        | State::Ready
        | State::Unconfirmed
        | State::Confirmed
        | State::Canceled
        | State::Discarded
        | State::Skipped => None,
    }
}

impl RunLogs {
    /// Reads what was written in the state with this version; of the whole run if none is named.
    pub(crate) async fn read(
        operations: &Operations,
        run: RunId,
        state: Option<RunState>,
        version: Option<i32>,
        token: Option<&str>,
    ) -> Result<Self> {
        let from = match token.filter(|token| !token.is_empty()) {
            Some(token) => token.parse().map_err(|_| invalid("this is not the token of a log"))?,
            None => 0,
        };
        let Some(state) = state else {
            return Self::portion(operations, run, LogScope::Run, from).await;
        };
        let history = operations.runs.history(run).await.map_err(refused)?;
        let Some(at) = index(&history, state, version) else { return Ok(Self::nothing()) };
        let Some(section) = section_of(history[at].state) else { return Ok(Self::nothing()) };
        let attempts = operations.runs.attempts(run).await.map_err(refused)?;
        let left = history.get(at + 1).map(|next| next.at.plus_ms(LINGER_MS));
        let is_left = left.is_some_and(|left| left <= operations.core.clock().now());
        let Some(record) = attempt_at(&attempts, &history[at]) else {
            return Ok(Self { finished: is_left, ..Self::default() });
        };
        let stored = operations.logs.log_sections(run).await.map_err(refused)?;
        let is_past =
            is_left || stored.iter().any(|it| it.attempt == record.attempt && it.section > section);
        let scope = LogScope::Section(record.attempt, section);
        let mut logs = Self::portion(operations, run, scope, from).await?;
        // Public clients read one state's log to its end before they look at the next one's.
        logs.finished |= is_past && !logs.has_more;
        Ok(logs)
    }

    /// Of a state in which nothing is written, or that the run never came to.
    fn nothing() -> Self {
        Self { finished: true, ..Self::default() }
    }

    async fn portion(
        operations: &Operations,
        run: RunId,
        scope: LogScope,
        from: u64,
    ) -> Result<Self> {
        let part = operations.logs.read_log(run, scope, from, PORTION).await.map_err(refused)?;
        let whole = if part.is_finished { part.bytes.len() } else { whole_characters(&part.bytes) };
        let next = from + whole as u64;
        let text = String::from_utf8_lossy(&part.bytes[..whole]).into_owned();
        Ok(Self {
            exists: next > 0,
            finished: part.is_finished,
            // A portion that is not full ends where the log now ends.
            has_more: !part.is_finished && part.bytes.len() == PORTION,
            messages: if text.is_empty() { vec![] } else { vec![RunLogMessage { message: text }] },
            next_token: Some(next.to_string()),
        })
    }
}

/// Where the run came to `state`: at this version, else the last time.
fn index(history: &[HistoryEntry], state: RunState, version: Option<i32>) -> Option<usize> {
    let is_it = |at: &usize| history.get(*at).is_some_and(|it| RunState::from(it.state) == state);
    match version.and_then(|version| usize::try_from(version).ok()) {
        Some(version) => Some(version).filter(is_it),
        None => (0..history.len()).rev().find(is_it),
    }
}

/// The attempt under way when the run came to a state.
fn attempt_at<'a>(
    attempts: &'a [AttemptRecord],
    entry: &HistoryEntry,
) -> Option<&'a AttemptRecord> {
    attempts.iter().rev().find(|record| record.offered_at <= entry.at)
}

/// How many of `bytes` do not end in the middle of a character. What is not UTF-8 at all counts: it
/// is replaced.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let Some(start) = (tail..bytes.len()).rev().find(|at| bytes[*at] >= 0xc0) else {
        return bytes.len();
    };
    match std::str::from_utf8(&bytes[start..]) {
        // Only a character that is cut off has an error without a length.
        Err(error) if error.error_len().is_none() => start,
        Err(_) | Ok(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn a_portion_ends_between_characters() {
        assert_eq!(whole_characters("aä".as_bytes()), 3);
        assert_eq!(whole_characters(&"aä".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&"a€".as_bytes()[..3]), 1);
        assert_eq!(whole_characters(&"😀".as_bytes()[..3]), 0);
        assert_eq!(whole_characters(b"a\xff"), 2);
        assert_eq!(whole_characters(b"\xff\xffa"), 3);
        assert_eq!(whole_characters(b"\x80\x80\x80\x80\x80"), 5);
        assert_eq!(whole_characters(b""), 0);
    }
}

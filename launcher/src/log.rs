//! An attempt's log on its way from the spool to the store.
//!
//! Output is masked and cut into segments. A segment is put into the store first; then, in one write of
//! the journal, the resume point moves behind it and the message that reports it begins to wait. So
//! after a crash the log goes on at the byte where it stopped: an object that was put but not
//! journaled is never referred to.

mod stdout;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::{Attempt, MessageId, Section};
use gantry_protocol::Digest;
use gantry_protocol::message::{Segment, UrlPurpose};
use gantry_spool::Position;
use tokio::time::Instant;
use ulid::Ulid;

use crate::blob::BlobError;
use crate::journal::{Change, Journal, JournalError, Mark};
use crate::mask::{Masker, Secrets};
use crate::uploads::{Content, Uploader, Uploads};

pub use stdout::{RUN_LOG, StdoutLog};

/// A segment is cut when it has this many bytes.
const SEGMENT: usize = 4 << 20;
/// A segment is cut this long after its first byte came: a reader sees a line soon after it was written.
pub const FLUSH: Duration = Duration::from_millis(100);

/// A new message id.
#[must_use]
pub fn message_id() -> MessageId {
    MessageId::from_ulid(Ulid::generate())
}

/// The log of one attempt.
pub struct Log<K = Uploads> {
    attempt: Attempt,
    journal: Arc<Journal>,
    store: K,
    secrets: Secrets,
    masker: Masker,
    /// What is durable, except for the part of the place in the spool that `taken` knows.
    mark: Mark,
    /// Masked, not stored yet.
    pending: Vec<u8>,
    /// When the first byte of `pending` came.
    since: Option<Instant>,
    /// How many bytes of output were taken in since this log was made.
    consumed: u64,
    /// The frames of which something is not stored yet.
    taken: VecDeque<Taken>,
    /// Where the frame behind the last one taken begins.
    next: Position,
    /// Prints what is stored too, if that is wanted.
    echo: Option<StdoutLog>,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    /// `consumed` before this frame.
    from: u64,
    position: Position,
    next: Position,
    /// How many bytes of its payload came before `from`.
    skip: u64,
    length: u64,
}

/// Why a log cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A segment cannot be stored.
    #[error("a part of the log cannot be stored")]
    Store(#[from] BlobError),
}

impl<K: Uploader> Log<K> {
    /// Goes on where the journal's mark stands.
    #[must_use]
    pub fn resume(
        attempt: Attempt,
        journal: Arc<Journal>,
        store: K,
        secrets: &Secrets,
        mark: Mark,
    ) -> Self {
        Self {
            attempt,
            journal,
            store,
            secrets: secrets.clone(),
            masker: Masker::new(secrets),
            next: mark.position,
            mark,
            pending: Vec::new(),
            since: None,
            consumed: 0,
            taken: VecDeque::new(),
            echo: None,
        }
    }

    /// Prints every line on standard output too, once it is masked and stored.
    #[must_use]
    pub fn echoed(mut self, echo: Option<StdoutLog>) -> Self {
        self.echo = echo;
        self
    }

    /// Where reading the spool begins.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.mark.position
    }

    /// Takes the output of one frame.
    ///
    /// # Errors
    /// When a segment that is full cannot be stored for good.
    pub async fn output(
        &mut self,
        position: Position,
        next: Position,
        payload: &[u8],
    ) -> Result<(), LogError> {
        // The first frame after a restart may be stored in part.
        let is_marked = self.taken.is_empty() && position == self.mark.position;
        let skip = if is_marked { self.mark.skip } else { 0 };
        let fresh = payload.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
        let length = fresh.len() as u64;
        self.taken.push_back(Taken { from: self.consumed, position, next, skip, length });
        self.next = next;
        self.consumed += length;
        self.masker.push(fresh, &mut self.pending);
        if !self.pending.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
        if self.pending.len() >= SEGMENT { self.cut(Vec::new()).await } else { Ok(()) }
    }

    /// When the next segment is to be cut, if something waits for it.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + FLUSH)
    }

    /// Stores what is masked, and makes `changes` durable with it.
    ///
    /// # Errors
    /// When the store or the journal fails for good.
    pub async fn cut(&mut self, mut changes: Vec<Change>) -> Result<(), LogError> {
        let stored = self.store_pending().await?;
        changes.extend(stored);
        self.advance();
        changes.push(Change::mark(self.attempt, self.mark.clone()));
        self.journal.write(changes).await?;
        Ok(())
    }

    /// Ends the section: nothing that the masker holds can become a secret any more.
    ///
    /// `behind` is the place of the frame behind the one that ends it, if a frame does. `changes` are
    /// made durable with it.
    ///
    /// # Errors
    /// As [`Log::cut`].
    pub async fn end_section(
        &mut self,
        behind: Option<Position>,
        section: Option<Section>,
        changes: Vec<Change>,
    ) -> Result<(), LogError> {
        self.masker.finish(&mut self.pending);
        let stored = self.store_pending().await?;
        self.start_section(behind, section, stored, changes).await
    }

    /// Goes on in the same section behind a frame that stands for output that is not there, and says so
    /// at the end of the log.
    ///
    /// # Errors
    /// As [`Log::cut`].
    pub async fn record_gap(&mut self, behind: Position, line: String) -> Result<(), LogError> {
        self.masker.finish(&mut self.pending);
        let mut stored = self.store_pending().await?;
        let line = self.own(Section::Conclude, &[line]);
        stored.extend(self.store_segment(Section::Conclude, line).await?);
        self.start_section(Some(behind), self.mark.section, stored, Vec::new()).await
    }

    async fn start_section(
        &mut self,
        behind: Option<Position>,
        section: Option<Section>,
        mut all: Vec<Change>,
        changes: Vec<Change>,
    ) -> Result<(), LogError> {
        self.masker = Masker::new(&self.secrets);
        self.taken.clear();
        self.next = behind.unwrap_or(self.next);
        self.mark.position = self.next;
        self.mark.skip = 0;
        self.mark.section = section;
        all.extend(changes);
        all.push(Change::mark(self.attempt, self.mark.clone()));
        self.journal.write(all).await?;
        Ok(())
    }

    /// Adds lines of the launcher's own to a section, masked like everything else, and makes `changes`
    /// durable with them.
    ///
    /// # Errors
    /// As [`Log::cut`].
    pub async fn say(
        &mut self,
        section: Section,
        lines: &[String],
        mut changes: Vec<Change>,
    ) -> Result<(), LogError> {
        let masked = self.own(section, lines);
        if !masked.is_empty() {
            changes.extend(self.store_segment(section, masked).await?);
            changes.push(Change::mark(self.attempt, self.mark.clone()));
        }
        self.journal.write(changes).await?;
        Ok(())
    }

    /// The launcher's own lines, masked. At the end of the log they begin a line, whatever the last phase left.
    fn own(&self, section: Section, lines: &[String]) -> Vec<u8> {
        let mut masker = Masker::new(&self.secrets);
        let mut masked = Vec::new();
        if section == Section::Conclude && self.mark.is_mid_line && !lines.is_empty() {
            masked.push(b'\n');
        }
        for line in lines {
            masker.push(line.as_bytes(), &mut masked);
            masker.push(b"\n", &mut masked);
        }
        masker.finish(&mut masked);
        masked
    }

    /// The section that output belongs to.
    #[must_use]
    pub const fn section(&self) -> Option<Section> {
        self.mark.section
    }

    async fn store_pending(&mut self) -> Result<Vec<Change>, LogError> {
        self.since = None;
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let content = std::mem::take(&mut self.pending);
        // Output outside of every phase is not lost: it stands at the end.
        let section = self.mark.section.unwrap_or(Section::Conclude);
        self.store_segment(section, content).await
    }

    async fn store_segment(
        &mut self,
        section: Section,
        content: Vec<u8>,
    ) -> Result<Vec<Change>, LogError> {
        let content = Bytes::from(content);
        let length = content.len() as u64;
        let key = self.store.put(UrlPurpose::Log, Content::Bytes(&content)).await?;
        let stored = self.mark.sections.entry(section).or_default();
        let offset = *stored;
        *stored += length;
        // What is already at the end hides how the phase before it ends.
        let is_last = section == Section::Conclude
            || self.mark.sections.get(&Section::Conclude).is_none_or(|stored| *stored == 0);
        if let Some(last) = content.last().filter(|_| is_last) {
            self.mark.is_mid_line = *last != b'\n';
        }
        if let Some(echo) = &mut self.echo {
            echo.print(&content);
        }
        let sha256 = Digest::of(&content).to_string();
        let segment = Segment { attempt: self.attempt, section, offset, length, sha256, key };
        Ok(vec![Change::Queue { id: message_id(), message: segment.into() }])
    }

    /// Moves the mark to the first byte whose fate the masker has not decided.
    fn advance(&mut self) {
        let decided = self.consumed - self.masker.held() as u64;
        while self.taken.front().is_some_and(|taken| taken.from + taken.length <= decided) {
            if let Some(taken) = self.taken.pop_front() {
                self.mark.position = taken.next;
                self.mark.skip = 0;
            }
        }
        if let Some(taken) = self.taken.front() {
            self.mark.position = taken.position;
            self.mark.skip = taken.skip + (decided - taken.from);
        }
    }
}

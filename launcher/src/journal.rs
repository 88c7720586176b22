//! What must be known after our own death.
//!
//! The journal is one append-only file. Each [`Journal::write`] is durable before it
//! returns and taken in whole or not at all, though many may share one frame; so a step, the resume point of a log and the message
//! that reports both can never come apart. Messages that must not be lost wait here until the control
//! plane has acknowledged them.
//!
//! No secret is ever written to it: sealed specs lie beside it as they came.

mod file;
mod record;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_model::{Attempt, JournalId, SessionId, WorkerId};
use gantry_protocol::message::{RunInHand, Step};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::session::{Outgoing, OutgoingError, Waiting};
pub use file::JournalError;
use file::{File, Sync};
use record::Record;
pub use record::{Allowed, Change, Ending, KeptState, Mark};
use writer::{What, Writer};

/// The most messages that are handed to the session at once.
const BATCH: usize = 64;
/// How many state versions of an attempt are remembered, the latest ones: an entry must fit one frame.
const STATES: usize = 256;

/// A launcher's journal.
#[derive(Debug)]
pub struct Journal {
    id: JournalId,
    worker: WorkerId,
    shared: Arc<Shared>,
    writer: Writer,
}

/// What the writer and everybody else have in common.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    highest: watch::Sender<u64>,
    acknowledged: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    known: Known,
    /// The session whose grants count; none between a `hello` and its `welcome`.
    session: Option<SessionId>,
    /// What is being granted: taken, and not durable yet.
    granting: BTreeSet<Attempt>,
}

/// What the records add up to.
#[derive(Debug, Default)]
struct Known {
    opened: Option<(JournalId, WorkerId)>,
    entries: BTreeMap<Attempt, Entry>,
    /// Sequenced messages that are not acknowledged, in order.
    waiting: VecDeque<Waiting>,
    last_seq: u64,
    acknowledged: u64,
}

/// What is known of one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub attempt: Attempt,
    /// How far it is.
    pub step: Step,
    /// The kernel's id of the boot in which it was granted; another one means that the host restarted.
    pub boot: String,
    /// Why it is being stopped, if it is.
    pub stop: Option<String>,
    /// How often the policy's evaluation was begun and not seen to its end.
    pub policy_begun: u32,
    /// What it may run, from [`Step::WorkspaceReady`] on.
    pub allowed: Option<Allowed>,
    /// Why a state that it wrote stays on this host, if one does.
    pub left: Option<String>,
    /// Where its log stands.
    pub mark: Mark,
    /// The state versions that are stored, the latest 256 of them.
    pub states: Vec<KeptState>,
    /// How it ended, from [`Step::Ended`] on.
    pub ending: Option<Ending>,
    /// The `seq` of its result, from [`Step::ResultSent`] on.
    pub result: Option<u64>,
}

impl Journal {
    /// Opens the journal in `directory`, or begins one with the ids given.
    ///
    /// # Errors
    /// When it cannot be read or written, is of another version, or is damaged elsewhere than in its
    /// last frame, which a crash may have cut.
    pub fn open(
        directory: &Path,
        new: impl FnOnce() -> (JournalId, WorkerId),
    ) -> Result<Self, JournalError> {
        Self::open_with(directory, Sync::default(), new)
    }

    fn open_with(
        directory: &Path,
        sync: Sync,
        new: impl FnOnce() -> (JournalId, WorkerId),
    ) -> Result<Self, JournalError> {
        let mut known = Known::default();
        let mut file = File::open(directory, |record| known.apply(record))?;
        let (id, worker) = if let Some(ids) = known.opened {
            ids
        } else {
            let (journal, worker) = new();
            let opened = Record::Opened { journal, worker };
            file.append(&[&file::line(&opened)?])?;
            known.apply(opened);
            (journal, worker)
        };
        if let Err(error) = file.rewrite(&known.records()) {
            tracing::warn!(%error, "the journal could not be made shorter, and goes on as it is");
        }
        file.sync = sync;
        let shared = Arc::new(Shared {
            highest: watch::Sender::new(known.last_seq),
            acknowledged: watch::Sender::new(known.acknowledged),
            inner: Mutex::new(Inner { known, ..Inner::default() }),
        });
        let writer = Writer::start(file, Arc::clone(&shared));
        let path = directory.to_owned();
        let writer = writer.map_err(|source| JournalError::Io { path, source })?;
        Ok(Self { id, worker, shared, writer })
    }

    /// The worker whose journal this is.
    #[must_use]
    pub const fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Everything in hand.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().known.entries.values().cloned().collect()
    }

    /// How many attempts there are whose result the control plane does not have: what comes after that
    /// is clean-up and takes no worker.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        let inner = self.lock();
        let up_to = inner.known.acknowledged;
        let entries = inner.known.entries.values();
        entries.filter(|entry| entry.result.is_none_or(|result| result > up_to)).count()
    }

    /// What is known of one attempt.
    #[must_use]
    pub fn entry(&self, attempt: Attempt) -> Option<Entry> {
        self.lock().known.entries.get(&attempt).cloned()
    }

    /// Makes all of `changes` durable at once and gives the `seq` of the last message among them.
    ///
    /// Takes about as long as the disk needs for one synchronised write, which many share, and holds nobody up
    /// meanwhile. They are written even if this is dropped, and known when that returns.
    ///
    /// # Errors
    /// When the file cannot be written. Nothing of `changes` then holds.
    pub async fn write(&self, changes: Vec<Change>) -> Result<Option<u64>, JournalError> {
        self.write_with(|_| changes).await
    }

    /// Does the same with changes that need the `seq` of the first message among them.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub async fn write_with(
        &self,
        changes: impl FnOnce(u64) -> Vec<Change> + Send + 'static,
    ) -> Result<Option<u64>, JournalError> {
        let written = self.writer.hand_over(What::Changes(Box::new(changes)));
        Ok(written.written().await?.seq)
    }

    /// Does the same as [`Journal::write`] where nobody can wait but the thread itself.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub fn write_now(&self, changes: Vec<Change>) -> Result<Option<u64>, JournalError> {
        let written = self.writer.hand_over(What::Changes(Box::new(|_| changes)));
        Ok(written.written_now()?.seq)
    }

    /// Takes a grant that came in `session`, if that is still the one that counts. Otherwise a `hello`
    /// that does not name the attempt was made in the meantime, and the control plane gives it away.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub async fn grant(
        &self,
        attempt: Attempt,
        boot: &str,
        session: SessionId,
    ) -> Result<bool, JournalError> {
        let grant = What::Grant { attempt, boot: boot.to_owned(), session };
        Ok(self.writer.hand_over(grant).written().await?.is_taken)
    }

    /// Makes one step durable.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub async fn step(&self, attempt: Attempt, step: Step) -> Result<(), JournalError> {
        self.write(vec![Change::step(attempt, step)]).await.map(|_| ())
    }

    /// Changes whenever the control plane has acknowledged more.
    #[must_use]
    pub fn acknowledgements(&self) -> watch::Receiver<u64> {
        self.shared.acknowledged.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves at worst a record that is durable but not yet in `known`.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing for Journal {
    fn journal(&self) -> JournalId {
        self.id
    }

    fn runs(&self) -> Vec<RunInHand> {
        self.lock().runs()
    }

    fn greet(&self) -> Vec<RunInHand> {
        let mut inner = self.lock();
        inner.session = None;
        inner.runs()
    }

    fn opened(&self, session: SessionId) {
        self.lock().session = Some(session);
    }

    fn waiting(&self, after: u64) -> Vec<Waiting> {
        let inner = self.lock();
        inner
            .known
            .waiting
            .iter()
            .filter(|waiting| waiting.seq > after)
            .take(BATCH)
            .cloned()
            .collect()
    }

    fn acknowledge(&self, up_to: u64) -> Result<(), OutgoingError> {
        let written = self.writer.hand_over(What::Acknowledged { up_to }).written_now();
        written.map(drop).map_err(|error| OutgoingError(Box::new(error)))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.highest.subscribe()
    }
}

impl Inner {
    fn runs(&self) -> Vec<RunInHand> {
        let entries = self.known.entries.values();
        let entries = entries.map(|entry| RunInHand { attempt: entry.attempt, step: entry.step });
        let granting = self.granting.iter();
        let granting = granting.map(|attempt| RunInHand { attempt: *attempt, step: Step::Granted });
        entries.chain(granting).collect()
    }
}

impl Known {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Opened { journal, worker } => self.opened = Some((journal, worker)),
            Record::Entry(entry) => {
                self.entries.insert(entry.attempt, *entry);
            }
            Record::Granted { attempt, boot } => {
                self.entries.entry(attempt).or_insert_with(|| Entry::new(attempt, boot));
            }
            Record::Step { attempt, step } => self.change(attempt, |entry| entry.step = step),
            Record::Stop { attempt, reason } => {
                self.change(attempt, |entry| {
                    entry.stop.get_or_insert(reason);
                });
            }
            Record::PolicyBegun { attempt, times } => {
                self.change(attempt, |entry| entry.policy_begun = times);
            }
            Record::Allowed { attempt, allowed } => {
                self.change(attempt, |entry| entry.allowed = Some(allowed));
            }
            Record::Left { attempt, reason } => {
                self.change(attempt, |entry| {
                    entry.left.get_or_insert(reason);
                });
            }
            Record::Mark { attempt, mark } => self.change(attempt, |entry| entry.mark = mark),
            Record::State { attempt, state } => {
                self.change(attempt, |entry| {
                    let surplus = (entry.states.len() + 1).saturating_sub(STATES);
                    entry.states.drain(..surplus);
                    entry.states.push(state);
                });
            }
            Record::Ended { attempt, ending } => self.change(attempt, |entry| {
                entry.step = Step::Ended;
                entry.ending = Some(*ending);
            }),
            Record::Result { attempt, queued, seq } => {
                self.apply(*queued);
                self.change(attempt, |entry| {
                    entry.step = Step::ResultSent;
                    entry.result = Some(seq);
                });
            }
            Record::Removed { attempt } => {
                self.entries.remove(&attempt);
            }
            Record::Queued { seq, id, kind, body } => {
                self.last_seq = self.last_seq.max(seq);
                self.waiting.push_back(Waiting { seq, id, kind, body: body.into() });
            }
            Record::Acknowledged { up_to } => {
                self.acknowledged = self.acknowledged.max(up_to);
                self.last_seq = self.last_seq.max(up_to);
                self.waiting.retain(|waiting| waiting.seq > up_to);
            }
        }
    }

    fn change(&mut self, attempt: Attempt, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&attempt) {
            change(entry);
        }
    }

    /// The shortest list of records that adds up to the same.
    fn records(&self) -> Vec<Record> {
        let opened = self.opened.map(|(journal, worker)| Record::Opened { journal, worker });
        let entries = self.entries.values().map(|entry| Record::Entry(Box::new(entry.clone())));
        let acknowledged = [Record::Acknowledged { up_to: self.acknowledged }];
        let waiting = self.waiting.iter().map(|waiting| Record::Queued {
            seq: waiting.seq,
            id: waiting.id,
            kind: waiting.kind.clone(),
            body: (*waiting.body).to_owned(),
        });
        opened.into_iter().chain(entries).chain(acknowledged).chain(waiting).collect()
    }
}

impl Entry {
    fn new(attempt: Attempt, boot: String) -> Self {
        Self {
            attempt,
            step: Step::Granted,
            boot,
            stop: None,
            policy_begun: 0,
            allowed: None,
            left: None,
            mark: Mark::default(),
            states: Vec::new(),
            ending: None,
            result: None,
        }
    }
}

#[cfg(test)]
mod tests;

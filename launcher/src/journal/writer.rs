//! The one writer of the journal's file.
//!
//! A thread of its own, so that no disk holds up the runtime. What comes while it waits for the disk is written
//! together, in the next frame: many callers share one synchronisation. Everything is written in the order in which
//! it was handed over, and known only once it is durable.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use gantry_model::{Attempt, SessionId};
use tokio::sync::oneshot;

use super::Shared;
use super::file::{File, JournalError, Line, MAX_FRAME, line};
use super::record::{Change, Record};

/// Changes that need the `seq` of the first message among them.
pub(super) type Changes = Box<dyn FnOnce(u64) -> Vec<Change> + Send>;

/// What is to be written.
pub(super) enum What {
    /// All of it, or nothing.
    Changes(Changes),
    /// Only while that session is the one that counts.
    Grant { attempt: Attempt, boot: String, session: SessionId },
    /// Only what is not known yet.
    Acknowledged { up_to: u64 },
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Whether it was to be written at all.
    pub(super) is_taken: bool,
    /// The `seq` of the last message among it.
    pub(super) seq: Option<u64>,
}

type Answer = oneshot::Sender<Result<Written, JournalError>>;

struct Job {
    what: What,
    answer: Answer,
}

/// The way to the writer, which ends when this is dropped: after all that was handed over.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Mutex<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(file: File, shared: Arc<Shared>) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || Writing { file, shared }.run(&waiting))?;
        Ok(Self { jobs: Some(Mutex::new(jobs)), thread: Some(thread) })
    }

    /// Hands something over. It is written, whether anybody waits for it or not.
    pub(super) fn hand_over(&self, what: What) -> HandedOver {
        let (answer, written) = oneshot::channel();
        if let Some(jobs) = &self.jobs {
            // Without a writer the answer is dropped, and whoever waits is told.
            drop(jobs.lock().unwrap_or_else(PoisonError::into_inner).send(Job { what, answer }));
        }
        HandedOver { written: Some(written) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed.
            drop(thread.join());
        }
    }
}

/// Something that was handed over. Who gives up waiting for it finds it in the journal all the same when he looks
/// the next time, as if the disk had been quick: dropping this waits for the disk.
pub(super) struct HandedOver {
    written: Option<oneshot::Receiver<Result<Written, JournalError>>>,
}

impl HandedOver {
    pub(super) async fn written(mut self) -> Result<Written, JournalError> {
        let Some(written) = &mut self.written else { return Err(JournalError::Gone) };
        let written = written.await;
        self.written = None;
        written.unwrap_or(Err(JournalError::Gone))
    }

    pub(super) fn written_now(mut self) -> Result<Written, JournalError> {
        self.written.take().and_then(wait).unwrap_or(Err(JournalError::Gone))
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if let Some(written) = self.written.take() {
            drop(wait(written));
        }
    }
}

/// Within a runtime too: the writer needs none.
fn wait<T>(written: oneshot::Receiver<T>) -> Option<T> {
    futures::executor::block_on(written).ok()
}

struct Writing {
    file: File,
    shared: Arc<Shared>,
}

/// A job whose records are spelled.
struct Spelled {
    records: Vec<Record>,
    lines: Vec<Line>,
    written: Written,
    answer: Answer,
}

/// What goes into one frame.
#[derive(Default)]
struct Batch {
    jobs: Vec<Spelled>,
    size: usize,
}

impl Writing {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut waiting: VecDeque<Job> =
                std::iter::once(first).chain(jobs.try_iter()).collect();
            while !waiting.is_empty() {
                self.write_some(&mut waiting);
            }
        }
    }

    /// Writes what waits, in frames as large as they may be. After a failure the rest is left to be spelled anew.
    fn write_some(&mut self, waiting: &mut VecDeque<Job>) {
        let mut next = self.shared.lock().known.last_seq;
        let mut batch = Batch::default();
        while let Some(Job { what, answer }) = waiting.pop_front() {
            let (records, written) = match self.records(what, next) {
                Ok(records) => records,
                Err(error) => {
                    drop(answer.send(Err(error)));
                    continue;
                }
            };
            let lines: Result<Vec<Line>, _> = records.iter().map(line).collect();
            let size =
                |lines: &Vec<Line>| lines.iter().map(|line| line.len() + 1).sum::<usize>() + 2;
            let lines = lines.and_then(|lines| match size(&lines) {
                size if size > MAX_FRAME => Err(JournalError::TooLarge { size }),
                _ => Ok(lines),
            });
            let spelled = match lines {
                Ok(lines) => Spelled { records, lines, written, answer },
                Err(error) => {
                    drop(answer.send(Err(error)));
                    continue;
                }
            };
            let own = size(&spelled.lines);
            if batch.size + own > MAX_FRAME
                && let Err(error) = self.write(std::mem::take(&mut batch))
            {
                // Its messages were counted behind those that failed.
                drop(spelled.answer.send(Err(error)));
                return;
            }
            next = spelled.written.seq.unwrap_or(next);
            batch.size += own;
            batch.jobs.push(spelled);
        }
        // Everybody in it is told.
        drop(self.write(batch));
    }

    /// The records of a job whose messages come behind `last`.
    fn records(&self, what: What, last: u64) -> Result<(Vec<Record>, Written), JournalError> {
        let nothing = || (Vec::new(), Written::default());
        let one = |record| (vec![record], Written { is_taken: true, seq: None });
        let changes = match what {
            What::Changes(changes) => changes(last + 1),
            What::Grant { attempt, boot, session } => {
                let mut inner = self.shared.lock();
                if inner.session != Some(session) {
                    return Ok(nothing());
                }
                // From here on a hello names it, so that the control plane does not give it away.
                inner.granting.insert(attempt);
                return Ok(one(Record::Granted { attempt, boot }));
            }
            What::Acknowledged { up_to } => {
                let known = &self.shared.lock().known;
                let up_to = up_to.min(known.last_seq);
                let is_new = up_to > known.acknowledged;
                return Ok(if is_new { one(Record::Acknowledged { up_to }) } else { nothing() });
            }
        };
        let (mut next, mut seq) = (last, None);
        let mut number = || {
            next += 1;
            seq = Some(next);
            next
        };
        let records = changes.into_iter().map(|change| match change {
            Change::Queue { id, message } => Record::queued(number(), id, &message),
            Change::Result { attempt, id, message } => {
                let seq = number();
                let queued = Box::new(Record::queued(seq, id, &message)?);
                Ok(Record::Result { attempt, queued, seq })
            }
            Change::Record(record) => Ok(record),
        });
        let records = records.collect::<Result<Vec<_>, _>>()?;
        Ok((records, Written { is_taken: true, seq }))
    }

    /// Makes a batch durable, then known, then tells everybody.
    fn write(&mut self, batch: Batch) -> Result<(), JournalError> {
        let lines: Vec<&Line> = batch.jobs.iter().flat_map(|job| &job.lines).collect();
        let appended = if lines.is_empty() { Ok(()) } else { self.file.append(&lines) };
        let mut inner = self.shared.lock();
        for record in batch.jobs.iter().flat_map(|job| &job.records) {
            if let Record::Granted { attempt, .. } = record {
                inner.granting.remove(attempt);
            }
        }
        if let Err(error) = appended {
            drop(inner);
            for job in batch.jobs {
                drop(job.answer.send(Err(error.again())));
            }
            return Err(error);
        }
        let (mut answers, mut has_messages) = (Vec::new(), false);
        for job in batch.jobs {
            job.records.into_iter().for_each(|record| inner.known.apply(record));
            has_messages |= job.written.seq.is_some();
            answers.push((job.answer, job.written));
        }
        let (last, acknowledged) = (inner.known.last_seq, inner.known.acknowledged);
        drop(inner);
        if has_messages {
            self.shared.highest.send_replace(last);
        }
        self.shared.acknowledged.send_if_modified(|known| {
            let is_more = *known < acknowledged;
            *known = acknowledged;
            is_more
        });
        for (answer, written) in answers {
            drop(answer.send(Ok(written)));
        }
        if self.file.is_long() {
            let records = self.shared.lock().known.records();
            if let Err(error) = self.file.rewrite(&records) {
                // What was written holds all the same.
                tracing::warn!(%error, "the journal could not be made shorter, and goes on as it is");
            }
        }
        Ok(())
    }
}

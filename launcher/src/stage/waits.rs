//! How long a stage waits for others, and what it says meanwhile.
//!
//! Every wait of a stage has one shape. It ends with what it waits for; at a stop; at the stage's time
//! limit; and at a hand-over, or when the stage is not ours any more, because [`super::drive`] lets go
//! of the whole walk then. After 10 s the run's log says what is waited for, and so does the worker's
//! row.
//!
//! One thing ends neither at a stop nor at the time limit: the delivery of what a write stage that has
//! begun has produced. Its log, its states and its result are kept and offered until somebody has them.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_model::{Attempt, Section, Stage as StageKind};
use gantry_protocol::message::{StageOutcome, Step};
use gantry_spool::BegunError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::container::retry;
use super::{Shared, Stage, StageError, StageRequest, blame, plain};
use crate::blob::BlobError;
use crate::config::Config;
use crate::engine::{Engine, EngineError};
use crate::explain::sentence;
use crate::health::{Complaints, Source};
use crate::journal::{Change, Journal};
use crate::log::{Log, LogError};
use crate::uploads::Patience;

/// What is waited for besides the engine, which has a name of its own.
pub(super) const STORE: &str = "the object store";
/// After so long it is said what is waited for.
pub(super) const SAY_AFTER: Duration = Duration::from_secs(10);
/// How long each answer is waited for, also when the stage's waits are over.
const AT_LEAST: Duration = Duration::from_secs(2);
/// How long a read stage waits for the engine before another worker may have it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what a stage still has to say may take to be stored once its waits are over.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// When the waits of one stage are over.
#[derive(Clone)]
pub(super) struct Limit {
    attempt: Attempt,
    journal: Arc<Journal>,
    spool: PathBuf,
    request: watch::Receiver<StageRequest>,
    until: Arc<Mutex<Instant>>,
}

impl Limit {
    pub(super) fn new(
        attempt: Attempt,
        journal: Arc<Journal>,
        spool: PathBuf,
        request: watch::Receiver<StageRequest>,
        until: Instant,
    ) -> Self {
        Self { attempt, journal, spool, request, until: Arc::new(Mutex::new(until)) }
    }

    /// Resolves at a stop or at the time limit; never while what a write stage has produced is at stake.
    pub(super) async fn over(&self) {
        if self.is_endless() {
            return std::future::pending().await;
        }
        let mut request = self.request.clone();
        tokio::select! {
            Ok(_) = request.wait_for(|request| *request >= StageRequest::Stop) => {}
            () = self.is_late() => {}
        }
    }

    /// Whether the time limit has passed.
    pub(super) fn has_passed(&self) -> bool {
        self.until() <= Instant::now()
    }

    /// The stage may take longer: what it waits for has a time limit of its own.
    pub(super) fn put_off(&self, until: Instant) {
        let mut now = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *now = until.max(*now);
    }

    fn step(&self) -> Option<Step> {
        self.journal.entry(self.attempt).map(|entry| entry.step)
    }

    async fn is_late(&self) {
        // It may be put off meanwhile.
        while !self.has_passed() {
            tokio::time::sleep_until(self.until()).await;
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write stage has begun, or may have: who cannot look must take it that it has.
    fn is_endless(&self) -> bool {
        let step = self.step();
        self.attempt.stage == StageKind::Write
            && match step {
                None => false,
                Some(step) if step < Step::Starting => false,
                Some(Step::Starting) => gantry_spool::has_begun(&self.spool).unwrap_or(true),
                Some(_) => true,
            }
    }
}

/// How long a stage's objects may take, and who is told meanwhile.
struct ForObjects {
    limit: Limit,
    complaints: Complaints,
    /// How long a read stage's container that was asked to stop has to end, and its last words after that.
    stopping: Duration,
}

impl Patience for ForObjects {
    fn over(&self) -> BoxFuture<'_, ()> {
        let over = async {
            self.limit.over().await;
            // Last words get a little time of their own, and a container as long as it has to end: what it
            // says meanwhile may still be stored.
            let is_running = self.limit.step() == Some(Step::Started);
            tokio::time::sleep(if is_running { self.stopping } else { LAST_WORDS }).await;
        };
        Box::pin(over)
    }

    fn is_tried(&self, why: &str) {
        let attempt = self.limit.attempt;
        tracing::warn!(%attempt, why, "waiting for the object store");
        let run = attempt.run;
        let complaint = format!("run {run} is waiting for the object store: {why}");
        self.complaints.make(Source::Wait(attempt), complaint);
    }

    fn is_over(&self) {
        self.complaints.withdraw(&Source::Wait(self.limit.attempt));
    }
}

/// For the objects of one stage.
pub(super) fn patience<E>(shared: &Shared<E>, limit: &Limit) -> Arc<dyn Patience> {
    let stopping = super::follow::READ_GRACE.min(shared.config.stop_grace.get()) + LAST_WORDS;
    Arc::new(ForObjects { limit: limit.clone(), complaints: shared.complaints.clone(), stopping })
}

/// What a stage that took too long is told: which limit, and how to change it.
pub(super) fn too_long(config: &Config) -> String {
    format!(
        "the run exceeded its time limit of {} (SPACELIFT_LAUNCHER_RUN_TIMEOUT)",
        config.run_timeout
    )
}

/// What is waited for, and why it does not come.
pub(super) struct Awaited {
    what: &'static str,
    why: Mutex<Option<String>>,
}

impl Awaited {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, why: Mutex::new(None) }
    }

    /// The last try failed for this reason.
    pub(super) fn failed(&self, error: &dyn std::error::Error) {
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        *why = Some(sentence(error));
    }

    fn line(&self) -> String {
        match &*self.why.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => format!("waiting for {}: {why}", self.what),
            None => format!("waiting for {}, which has not answered yet", self.what),
        }
    }
}

/// A complaint that is withdrawn when the wait is over, however it ends.
struct Complained<'a> {
    complaints: &'a Complaints,
    attempt: Attempt,
}

impl Drop for Complained<'_> {
    fn drop(&mut self) {
        self.complaints.withdraw(&Source::Wait(self.attempt));
    }
}

impl<E: Engine> Stage<E> {
    /// Asks the engine until it answers, as long as the stage may wait.
    pub(super) async fn ask<T, F>(&self, call: impl FnMut() -> F + Send) -> Result<T, EngineError>
    where
        T: Send,
        F: Future<Output = Result<T, EngineError>> + Send,
    {
        let awaited = Awaited::new(self.shared.engine.name());
        let answer = self.in_patience(retry(&awaited, call));
        self.wait(&awaited, answer).await.unwrap_or(Err(self.called_off()))
    }

    /// The same where a log is being written: what is said goes there.
    pub(super) async fn ask_with<T, F>(
        &self,
        log: &mut Log,
        call: impl FnMut() -> F + Send,
    ) -> Result<T, EngineError>
    where
        T: Send,
        F: Future<Output = Result<T, EngineError>> + Send,
    {
        let awaited = Awaited::new(self.shared.engine.name());
        let answer = self.in_patience(retry(&awaited, call));
        self.wait_with(log, &awaited, answer).await.unwrap_or(Err(self.called_off()))
    }

    pub(super) fn called_off(&self) -> EngineError {
        EngineError::CalledOff { engine: self.shared.engine.name() }
    }

    async fn in_patience<T>(
        &self,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        match self.attempt.stage {
            StageKind::Read => {
                tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(self.called_off()))
            }
            StageKind::Write => answer.await,
        }
    }

    /// Waits as long as the stage may; none when that is over. No log may be open meanwhile: what is
    /// said goes into one of its own.
    pub(super) async fn wait<T>(
        &self,
        awaited: &Awaited,
        it: impl Future<Output = T> + Send,
    ) -> Option<T> {
        let said = async {
            tokio::time::sleep(SAY_AFTER).await;
            match self.entry() {
                Some(entry) => self.say_that_it_waits(&mut self.log(&entry), awaited).await,
                None => std::future::pending().await,
            }
        };
        self.wait_and(it, said).await
    }

    /// The same where a log is being written.
    pub(super) async fn wait_with<T>(
        &self,
        log: &mut Log,
        awaited: &Awaited,
        it: impl Future<Output = T> + Send,
    ) -> Option<T> {
        let said = async {
            tokio::time::sleep(SAY_AFTER).await;
            self.say_that_it_waits(log, awaited).await
        };
        self.wait_and(it, said).await
    }

    async fn wait_and<T>(
        &self,
        it: impl Future<Output = T>,
        said: impl Future<Output = Infallible>,
    ) -> Option<T> {
        // Somebody who answers at once is heard after a stop too.
        let over = async { tokio::join!(self.limit.over(), tokio::time::sleep(AT_LEAST)) };
        tokio::select! {
            biased; // What is there is taken, however late.
            it = Box::pin(it) => Some(it),
            ((), ()) = over => None,
            never = Box::pin(said) => match never {},
        }
    }

    async fn say_that_it_waits(&self, log: &mut Log, awaited: &Awaited) -> Infallible {
        let line = awaited.line();
        tracing::warn!(attempt = %self.attempt, "{line}");
        let complaints = &self.shared.complaints;
        complaints.make(Source::Wait(self.attempt), format!("run {} is {line}", self.attempt.run));
        let _complained = Complained { complaints, attempt: self.attempt };
        // What cannot be said in the log stands in the worker's row.
        if let Err(error) = log.say(Section::Prepare, &[line], Vec::new()).await {
            tracing::debug!(attempt = %self.attempt, %error, "the run's log does not say so");
        }
        std::future::pending().await
    }

    /// Goes on where a wait was over before it had an end.
    pub(super) async fn waited_in_vain(&self, what: &'static str) -> Result<(), StageError> {
        let attempt = self.attempt;
        let Some(entry) = self.entry() else { return Ok(()) };
        tracing::warn!(%attempt, step = ?entry.step, "waiting for {what} was given up");
        match entry.step {
            // Of what has begun only a read stage is left to itself.
            Step::Granted
            | Step::WorkspaceReady
            | Step::Creating
            | Step::Created
            | Step::Started => {}
            // Whether it was started nobody can say. With the mark made here, it can never begin.
            Step::Starting => match gantry_spool::make_begun(&self.directories.spool) {
                // At once: until this is durable, the mark says that a container has begun.
                Ok(_begun) => {
                    let ending = plain(self.too_late(Some(what)));
                    self.shared.journal.write(vec![Change::ended(attempt, ending)]).await?;
                    return Ok(());
                }
                Err(BegunError::Already) => {
                    return Ok(self.shared.journal.step(attempt, Step::Started).await?);
                }
                Err(BegunError::Unusable(error)) if attempt.stage == StageKind::Write => {
                    return Err(error.into());
                }
                Err(BegunError::Unusable(_)) => {}
            },
            Step::LogComplete => return self.ends_otherwise(self.too_late(Some(what))).await,
            Step::Ended | Step::Sealed | Step::ResultSent | Step::Acknowledged | Step::Removed => {
                return Ok(());
            }
        }
        let outcome = self.too_late(Some(what));
        // A store that is silent takes no last word either.
        let lines = if what == STORE { None } else { super::ending::line(&outcome) };
        self.end_early(outcome, lines.as_slice()).await
    }

    /// How a stage ends whose waits are over.
    pub(super) fn too_late(&self, what: Option<&str>) -> StageOutcome {
        if self.request() == StageRequest::Stop {
            let stop = self.entry().and_then(|entry| entry.stop);
            return StageOutcome::Stopped {
                reason: stop.unwrap_or_else(|| "asked to stop".to_owned()),
            };
        }
        let limit = too_long(&self.shared.config);
        match what {
            Some(what) if !self.limit.has_passed() => {
                let reason = format!(
                    "{what} did not answer this worker for {} s: look at its host",
                    PATIENCE.as_secs()
                );
                self.shared.complaints.failed(&reason);
                blame::outcome(self.attempt.stage, reason)
            }
            Some(what) => {
                StageOutcome::Stopped { reason: format!("{limit} while it waited for {what}") }
            }
            None => StageOutcome::Stopped { reason: limit },
        }
    }

    /// Ends the stage before a container had anything to say. Where the lines cannot be stored in time,
    /// the reason stands in the result alone.
    pub(super) async fn end_early(
        &self,
        outcome: StageOutcome,
        lines: &[String],
    ) -> Result<(), StageError> {
        // Read only now: whatever was tried before may have said something.
        let Some(entry) = self.entry() else { return Ok(()) };
        let mut log = self.log(&entry);
        let ended = || Change::ended(self.attempt, plain(outcome.clone()));
        match tokio::time::timeout(LAST_WORDS, log.say(Section::Prepare, lines, vec![ended()]))
            .await
        {
            Ok(Err(LogError::Journal(error))) => Err(error.into()),
            Ok(Ok(())) => Ok(()),
            Ok(Err(LogError::Store(_))) | Err(_) => {
                tracing::warn!(attempt = %self.attempt, ?lines, "the log of the run does not say how it ended: it could not be stored");
                self.shared.journal.write(vec![ended()]).await?;
                Ok(())
            }
        }
    }
}

/// What was waited for, if it was a wait that was over too soon.
pub(super) const fn given_up(error: &StageError) -> Option<&'static str> {
    use super::state::StateError;
    match error {
        StageError::Engine(EngineError::CalledOff { engine }) => Some(engine),
        StageError::Blob(BlobError::CalledOff)
        | StageError::Log(LogError::Store(BlobError::CalledOff))
        | StageError::State(StateError::Blob(BlobError::CalledOff)) => Some(STORE),
        StageError::Engine(_)
        | StageError::Blob(_)
        | StageError::Log(_)
        | StageError::State(_)
        | StageError::Journal(_)
        | StageError::Directories { .. }
        | StageError::Spool(_)
        | StageError::Unopened { .. } => None,
    }
}

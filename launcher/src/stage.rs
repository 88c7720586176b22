//! Drives one stage from its grant to the acknowledgement of its result.
//!
//! A stage is a walk along the journal's steps. [`drive`] looks at the step that is durable, does what
//! comes next and makes that durable, until nothing is left. A launcher that starts again drives every
//! stage in its journal in just the same way, so there is no second path for recovery.
//!
//! What is never done twice: a stage that begun is never started again. The mark that the worker
//! binary makes before its first phase decides that, not the journal.

mod barrier;
mod blame;
mod container;
mod disk;
mod ending;
mod follow;
mod image;
mod jobs;
mod order;
mod policy;
mod prepare;
mod source;
mod spec;
mod state;
mod waits;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{Attempt, Stage as StageKind};
use gantry_protocol::PoolKey;
use gantry_protocol::message::{StageOutcome, Step};
use gantry_protocol::spec::Spec;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::blob::{BlobError, Objects};
use crate::config::Config;
use crate::engine::{Engine, EngineError, Limits};
use crate::health::Complaints;
use crate::journal::{Change, Ending, Entry, Journal, JournalError};
use crate::log::{Log, LogError, StdoutLog};
use crate::mask::Secrets;
use crate::policy::Policy;
use crate::uploads::{Notify, Uploads, Urls};
use crate::workspace::Directories;
use jobs::Jobs;
use waits::Limit;

/// How much longer than its grace a stopped stage gets, for what it does after its last phase.
pub const MARGIN: Duration = Duration::from_secs(60);

/// What all stages of a launcher share.
#[derive(Clone)]
pub struct Shared<E> {
    /// What the environment says.
    pub config: Arc<Config>,
    /// The journal.
    pub journal: Arc<Journal>,
    /// The container engine.
    pub engine: E,
    /// The object store.
    pub objects: Objects,
    /// The run initialization policy, if there is one.
    pub policy: Option<Arc<Policy>>,
    /// Where the worker binary lies on the host.
    pub worker_binary: PathBuf,
    /// What a stage's container may take.
    pub limits: Limits,
    /// Directories on whose disks something is kept free, one for each disk: the state directory, and the engine's.
    pub disks: Vec<PathBuf>,
    /// The kernel's id of this boot.
    pub boot: String,
    /// Says something to the control plane.
    pub notify: Notify,
    /// What is wrong with this worker.
    pub complaints: Complaints,
}

/// What the rest of the launcher wants of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageRequest {
    /// Go on.
    #[default]
    GoOn,
    /// The journal holds why it is to be stopped.
    Stop,
    /// It is not ours any more: drop everything that it made.
    Drop,
    /// Leave everything to the next launcher, a stop too: the container goes on. The last one, so that
    /// nothing that does not answer keeps a launcher from leaving.
    HandOver,
}

/// A stage's connections to the rest of the launcher.
#[derive(Clone)]
pub struct StageControl {
    /// What is wanted of it.
    pub request: watch::Receiver<StageRequest>,
    /// Urls come in here.
    pub urls: Arc<Urls>,
    /// When its waits are over, unless its container was started before.
    pub until: Instant,
}

/// How a drive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriveOutcome {
    /// Nothing of the stage is left.
    Done,
    /// The next launcher drives on.
    HandedOver,
}

/// Why a stage cannot be driven any further by this launcher.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The journal cannot be written: nothing may happen that would not be known afterwards.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The log cannot go on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The spool or another directory of the stage cannot be used.
    #[error("cannot use the directories of {attempt}: check the disk under GANTRY_STATE_DIR")]
    Directories {
        /// Whose.
        attempt: Attempt,
        /// Why.
        source: std::io::Error,
    },
    /// What the spool holds cannot be read.
    #[error(transparent)]
    Spool(#[from] gantry_spool::SpoolError),
    /// Something cannot be stored.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A state version cannot be sealed.
    #[error(transparent)]
    State(#[from] state::StateError),
    /// Its container runs, and this launcher cannot mask what it says.
    #[error("{reason}; its container goes on")]
    Unopened {
        /// Why the spec cannot be opened.
        reason: String,
    },
    /// The engine refuses what no waiting mends.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl StageError {
    /// Whether it is the spool, or a file in it, that this host cannot read.
    fn is_of_spool(&self) -> bool {
        use gantry_spool::SpoolError::Io;
        match self {
            Self::Spool(error) | Self::State(state::StateError::Spool(error)) => {
                matches!(error, Io { .. })
            }
            Self::State(error) => matches!(error, state::StateError::Io(_)),
            Self::Journal(_)
            | Self::Log(_)
            | Self::Directories { .. }
            | Self::Blob(_)
            | Self::Unopened { .. }
            | Self::Engine(_) => false,
        }
    }
}

/// One stage on its way.
struct Stage<E> {
    shared: Shared<E>,
    attempt: Attempt,
    control: StageControl,
    directories: Directories,
    store: Uploads,
    spec: Spec,
    secrets: Secrets,
    /// What to say of secrets that logs cannot hide.
    unmasked: Vec<String>,
    /// Lower-case hex of the SHA-256 of the sealed spec.
    spec_sha256: String,
    variables: order::Variables,
    origins: order::Origins,
    /// When its waits are over.
    limit: Limit,
    jobs: Jobs,
}

/// What the container is called.
fn container_name(attempt: Attempt) -> String {
    attempt.name()
}

/// Drives one stage on from whatever step the journal holds.
///
/// # Errors
/// When the journal, the disk or the engine fail so that this launcher can do no more; the journal
/// then lets another one go on.
pub async fn drive<E: Engine>(
    shared: Shared<E>,
    attempt: Attempt,
    control: StageControl,
) -> Result<DriveOutcome, StageError> {
    let requested = async |least| {
        let mut request = control.request.clone();
        // When the sender is gone the launcher ends, and that is no request.
        if request.wait_for(|request| *request >= least).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let jobs = Jobs::default();
    // Whatever the walk waits for then: it is left as a crash would leave it, and goes on from there.
    let driven = async {
        tokio::select! {
            biased;
            () = requested(StageRequest::Drop) => {}
            // Boxed: it is of many kilobytes, and so would be everything around it.
            driven = Box::pin(walk(&shared, attempt, &control, &jobs)) => {
                // Whoever drives on does not meet a job of this walk.
                jobs.ended().await;
                return driven;
            }
        }
        drop_all(&shared, &jobs, attempt).await
    };
    tokio::select! {
        biased;
        () = requested(StageRequest::HandOver) => Ok(DriveOutcome::HandedOver),
        driven = driven => driven,
    }
}

async fn walk<E: Engine>(
    shared: &Shared<E>,
    attempt: Attempt,
    control: &StageControl,
    jobs: &Jobs,
) -> Result<DriveOutcome, StageError> {
    let Some(entry) = shared.journal.entry(attempt) else { return Ok(DriveOutcome::Done) };
    if entry.step >= Step::ResultSent {
        return finish(shared, jobs, attempt).await;
    }
    let directories =
        Directories::of(attempt, &shared.config.state_dir, &shared.config.secrets_dir);
    let limit = Limit::new(
        attempt,
        Arc::clone(&shared.journal),
        directories.spool.clone(),
        control.request.clone(),
        control.until,
    );
    let store = Uploads::new(shared.objects.clone(), Arc::clone(&control.urls))
        .with(waits::patience(shared, &limit));
    let allowed = entry.allowed.as_ref().map(|allowed| allowed.spec_sha256.as_str());
    let opened = spec::open_spec(shared, attempt, &directories).and_then(|opened| {
        // Nothing runs that the policy was not asked about.
        if allowed.is_none_or(|sha256| sha256 == opened.sha256) {
            Ok(opened)
        } else {
            Err("the stage's spec is not the one that was to be run".to_owned())
        }
    });
    let stage = match opened {
        Ok(opened) => Stage {
            shared: shared.clone(),
            attempt,
            control: control.clone(),
            directories,
            store,
            spec: opened.spec,
            secrets: opened.secrets,
            unmasked: opened.unmasked,
            spec_sha256: opened.sha256,
            variables: opened.variables,
            origins: opened.origins,
            limit,
            jobs: jobs.clone(),
        },
        Err(reason) => return unopened(shared, jobs, &entry, control, &directories, reason).await,
    };
    stage.walk().await
}

impl<E: Engine> Stage<E> {
    async fn walk(&self) -> Result<DriveOutcome, StageError> {
        loop {
            let Some(entry) = self.entry() else { return Ok(DriveOutcome::Done) };
            let stepped = match entry.step {
                Step::Granted
                | Step::WorkspaceReady
                | Step::Creating
                | Step::Created
                | Step::Starting => self.begin(&entry).await,
                Step::Started => self.follow(&entry).await,
                // The ending was written behind the last of the log.
                Step::Ended => self
                    .shared
                    .journal
                    .step(self.attempt, Step::LogComplete)
                    .await
                    .map_err(Into::into),
                Step::LogComplete => self.seal(&entry).await,
                Step::Sealed => {
                    ending::send_result(&self.shared, self.attempt, entry.mark.closings())
                        .await
                        .map_err(Into::into)
                }
                Step::ResultSent | Step::Acknowledged | Step::Removed => {
                    return finish(&self.shared, &self.jobs, self.attempt).await;
                }
            };
            match stepped {
                Ok(()) => {}
                Err(error) => match waits::given_up(&error) {
                    Some(what) => self.waited_in_vain(what).await?,
                    None => return Err(error),
                },
            }
        }
    }

    fn entry(&self) -> Option<Entry> {
        self.shared.journal.entry(self.attempt)
    }

    fn request(&self) -> StageRequest {
        *self.control.request.borrow()
    }

    fn log(&self, entry: &Entry) -> Log {
        Log::resume(
            self.attempt,
            Arc::clone(&self.shared.journal),
            self.store.clone(),
            &self.secrets,
            entry.mark.clone(),
        )
        .echoed(
            self.shared
                .config
                .prints_run_logs
                .then(|| StdoutLog::new(self.attempt.run, self.spec.stack.clone())),
        )
    }

    fn keys(&self) -> Vec<&PoolKey> {
        let config = &self.shared.config;
        std::iter::once(&config.key).chain(&config.former_keys).collect()
    }

    fn at(&self) -> impl Fn(std::io::Error) -> StageError {
        let attempt = self.attempt;
        move |source| StageError::Directories { attempt, source }
    }
}

fn plain(outcome: StageOutcome) -> Ending {
    Ending { outcome, delta: None, outputs: Vec::new(), keeps_workspace: false }
}

/// Goes on with a stage whose spec this launcher cannot open: it has no secrets to mask by, so nothing
/// but the reason may leave the host.
async fn unopened<E: Engine>(
    shared: &Shared<E>,
    jobs: &Jobs,
    entry: &Entry,
    control: &StageControl,
    directories: &Directories,
    reason: String,
) -> Result<DriveOutcome, StageError> {
    let attempt = entry.attempt;
    let name = container_name(attempt);
    tracing::error!(%attempt, reason, "the stage cannot be opened");
    // How it ended stands in the journal, and only the workspace would need its spec.
    let known =
        entry.ending.clone().filter(|ending| !ending.keeps_workspace || entry.step >= Step::Sealed);
    if known.is_none() {
        let state = container::insist(&shared.engine, |engine| engine.state(&name)).await?;
        if state == Some(crate::engine::State::Running) {
            if *control.request.borrow() == StageRequest::Stop {
                let signal = crate::engine::Signal::Stop;
                container::insist(&shared.engine, |engine| engine.signal(&name, signal)).await?;
            }
            return Err(StageError::Unopened { reason });
        }
        // Where nobody can look, nobody can say that it did not begin.
        let is_there = directories.spool.try_exists().unwrap_or(true);
        let has_begun = is_there && gantry_spool::has_begun(&directories.spool).unwrap_or(true);
        let outcome = if has_begun && attempt.stage == StageKind::Write {
            StageOutcome::Unknown { reason }
        } else {
            StageOutcome::Failed { reason, phase: None, code: None }
        };
        shared.journal.write(vec![Change::ended(attempt, plain(outcome))]).await?;
    }
    ending::send_result(shared, attempt, entry.mark.closings()).await?;
    finish(shared, jobs, attempt).await
}

/// Ends a stage whose spec this host could not keep: nothing of it was done.
///
/// # Errors
/// When the journal cannot be written.
pub async fn cannot_be_kept<E>(
    shared: &Shared<E>,
    attempt: Attempt,
    error: &std::io::Error,
) -> Result<(), JournalError> {
    let reason = format!(
        "this worker cannot keep the stage's spec under GANTRY_STATE_DIR: {error}; make room there, or correct its permissions"
    );
    tracing::error!(%attempt, reason, "a stage is given up");
    shared.complaints.failed(&reason);
    let ending = plain(blame::outcome(attempt.stage, reason));
    shared.journal.write(vec![Change::ended(attempt, ending)]).await.map(drop)
}

/// Waits until the control plane has the result, then removes what is left of the stage.
async fn finish<E: Engine>(
    shared: &Shared<E>,
    jobs: &Jobs,
    attempt: Attempt,
) -> Result<DriveOutcome, StageError> {
    let Some(entry) = shared.journal.entry(attempt) else { return Ok(DriveOutcome::Done) };
    if entry.step == Step::ResultSent {
        let mut acknowledged = shared.journal.acknowledgements();
        // The sender lives as long as the journal, which `shared` holds.
        let _ = acknowledged.wait_for(|up_to| Some(*up_to) >= entry.result).await;
        shared.journal.step(attempt, Step::Acknowledged).await?;
    }
    remove_all(shared, jobs, attempt).await
}

async fn drop_all<E: Engine>(
    shared: &Shared<E>,
    jobs: &Jobs,
    attempt: Attempt,
) -> Result<DriveOutcome, StageError> {
    tracing::info!(%attempt, "dropping a stage that is not ours any more");
    remove_all(shared, jobs, attempt).await
}

async fn remove_all<E: Engine>(
    shared: &Shared<E>,
    jobs: &Jobs,
    attempt: Attempt,
) -> Result<DriveOutcome, StageError> {
    let name = container_name(attempt);
    container::insist(&shared.engine, |engine| engine.remove(&name)).await?;
    let directories =
        Directories::of(attempt, &shared.config.state_dir, &shared.config.secrets_dir);
    let secrets = directories.secrets().to_owned();
    let root = directories.root.clone();
    let keeps = shared.journal.entry(attempt).is_some_and(|entry| entry.left.is_some());
    // It waits for whatever else was begun there.
    let remove = move |_| {
        if keeps {
            directories.keep()?;
        }
        directories.remove()
    };
    match jobs.run(remove).await.and_then(|removed| removed) {
        Ok(()) => {}
        // Of another user: the worker binary was killed before it could give them back. They stand in no
        // run's way, and the next start tries again.
        Err(error)
            if !keeps
                && error.kind() == std::io::ErrorKind::PermissionDenied
                && !secrets.exists() =>
        {
            tracing::error!(
                %attempt,
                directory = %root.display(),
                %error,
                "files of another user stay: remove them, or let the launcher be root or the user of the phases"
            );
        }
        Err(source) => return Err(StageError::Directories { attempt, source }),
    }
    shared.journal.write(vec![Change::removed(attempt)]).await?;
    tracing::info!(%attempt, "removed what the stage left on this host");
    Ok(DriveOutcome::Done)
}

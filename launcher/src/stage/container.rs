//! Makes and starts the stage's container.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use gantry_protocol::message::{StageOutcome, Step};

use super::barrier::{self, Next};
use super::blame::{self, Blame};
use super::waits::Awaited;
use super::{Stage, StageError, StageRequest, container_name};
use crate::engine::{Engine, EngineError, Mount, POOL_LABEL, Spec, State};
use crate::explain::sentence;
use crate::journal::Entry;

/// The pause before the second try while the engine is away.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Where the worker binary is in the container.
const WORKER_BINARY: &str = "/gantry/bin/gantry-worker";

/// How long an engine is asked where nobody hears a stop or a time limit: whoever asks tries again later.
const A_WHILE: Duration = Duration::from_secs(60);

/// Asks an engine again and again for a while.
pub(super) async fn insist<'a, E: Engine, T, F>(
    engine: &'a E,
    mut call: impl FnMut(&'a E) -> F,
) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let awaited = Awaited::new(engine.name());
    match tokio::time::timeout(A_WHILE, retry(&awaited, || call(engine))).await {
        Ok(answer) => answer,
        Err(_) => call(engine).await,
    }
}

/// Asks an engine until it answers: one that restarts is waited for.
pub(super) async fn retry<T, F>(
    awaited: &Awaited,
    mut call: impl FnMut() -> F,
) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let mut pause = PAUSE;
    let mut is_away = false;
    loop {
        match call().await {
            Err(error) if error.is_passing() => {
                awaited.failed(&error);
                if !is_away {
                    tracing::warn!(%error, "waiting for the container engine");
                }
                is_away = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            other => {
                if is_away {
                    tracing::info!("the container engine answers again");
                }
                return other;
            }
        }
    }
}

impl<E: Engine> Stage<E> {
    /// Takes the step that the barrier allows.
    pub(super) async fn begin(&self, entry: &Entry) -> Result<(), StageError> {
        let state = self.state_of_container().await?;
        let has_begun = self.has_begun().await;
        let next = barrier::next(entry.step, state, has_begun);
        tracing::debug!(attempt = %self.attempt, step = ?entry.step, ?state, has_begun, ?next, "at the barrier");
        match next {
            Next::Follow => Ok(self.shared.journal.step(self.attempt, Step::Started).await?),
            Next::Prepare | Next::Create | Next::Start if self.request() == StageRequest::Stop => {
                self.stopped_early(entry).await
            }
            Next::Prepare => self.prepare(entry).await,
            Next::Create => self.create(entry).await,
            Next::Start => self.start(entry).await,
        }
    }

    /// Makes the container.
    async fn create(&self, entry: &Entry) -> Result<(), StageError> {
        // The worker binary writes there through its group.
        self.directories.make_spool().map_err(self.at())?;
        gantry_spool::lay_out(&self.directories.spool)?;
        self.shared.journal.step(self.attempt, Step::Creating).await?;
        let spec = self.container()?;
        match self.ask(|| self.shared.engine.create(&spec)).await {
            Ok(()) => Ok(self.shared.journal.step(self.attempt, Step::Created).await?),
            // It may have been made all the same: its name tells.
            Err(error) if self.state_of_container().await?.is_some() => {
                tracing::warn!(attempt = %self.attempt, %error, "making the container was refused, and it is there");
                Ok(self.shared.journal.step(self.attempt, Step::Created).await?)
            }
            Err(error) => self.failed_early(entry, &error).await,
        }
    }

    /// Starts the container.
    async fn start(&self, entry: &Entry) -> Result<(), StageError> {
        if let Err(reason) = self.write_order().await {
            return self.failed_early(entry, &reason).await;
        }
        if self.shared.config.shows_commands {
            self.show_commands(entry).await?;
        }
        self.shared.journal.step(self.attempt, Step::Starting).await?;
        match self.shared.engine.start(&container_name(self.attempt)).await {
            Ok(()) => Ok(self.shared.journal.step(self.attempt, Step::Started).await?),
            // Asked again, it would start a container that has run to its end in the meantime. So what
            // came of it is for the barrier to see.
            Err(error) if error.is_passing() => {
                tracing::warn!(attempt = %self.attempt, %error, "the container may have been started or not");
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            // It may have been started all the same: the mark tells, or that it runs.
            Err(error)
                if self.has_begun().await
                    || self.state_of_container().await? == Some(State::Running) =>
            {
                tracing::warn!(attempt = %self.attempt, %error, "starting the container was refused, and it was started");
                Ok(self.shared.journal.step(self.attempt, Step::Started).await?)
            }
            Err(error) => self.failed_early(entry, &error).await,
        }
    }

    /// What the container is doing; none if there is none.
    pub(super) async fn state_of_container(&self) -> Result<Option<State>, EngineError> {
        let name = container_name(self.attempt);
        self.ask(|| self.shared.engine.state(&name)).await
    }

    /// Whether the mark is there. While this host cannot look, it is waited for; a stage that is to be stopped
    /// then, or that waited for as long as a stage may take, is taken for one that began.
    pub(super) async fn has_begun(&self) -> bool {
        let mut is_said = false;
        loop {
            let error = match self.looks_begun() {
                Ok(has_begun) => return has_begun,
                Err(error) => sentence(&error),
            };
            if !std::mem::replace(&mut is_said, true) {
                tracing::error!(attempt = %self.attempt, error, "nobody can see whether the stage began");
            }
            let mut request = self.control.request.clone();
            tokio::select! {
                biased;
                Ok(_) = request.wait_for(|request| *request >= StageRequest::Stop) => return true,
                () = tokio::time::sleep(MAX_PAUSE) => {}
            }
            if self.limit.has_passed() {
                return true;
            }
        }
    }

    fn looks_begun(&self) -> Result<bool, StageError> {
        // A directory that nobody can look into is not one that is not there.
        if !self.directories.spool.try_exists().map_err(self.at())? {
            return Ok(false);
        }
        Ok(gantry_spool::has_begun(&self.directories.spool)?)
    }

    async fn stopped_early(&self, entry: &Entry) -> Result<(), StageError> {
        let stop = self.entry().and_then(|entry| entry.stop);
        let reason = stop.unwrap_or_else(|| "asked to stop".to_owned());
        let line = format!("stopped before the first phase: {reason}");
        self.end_unbegun(entry, StageOutcome::Stopped { reason }, &[line]).await
    }

    pub(super) async fn failed_early(
        &self,
        entry: &Entry,
        error: &(dyn Blame + Sync),
    ) -> Result<(), StageError> {
        // What failed may have failed because of it.
        if self.request() == StageRequest::Stop {
            return self.stopped_early(entry).await;
        }
        if self.limit.has_passed() {
            let outcome = self.too_late(None);
            let lines: Vec<_> = super::ending::line(&outcome).into_iter().collect();
            return self.end_unbegun(entry, outcome, &lines).await;
        }
        let reason = sentence(error);
        let reason = self.secrets.hide(&reason);
        let outcome = if error.is_ours() {
            self.shared.complaints.failed(&reason);
            blame::outcome(self.attempt.stage, reason)
        } else {
            StageOutcome::Failed { reason, phase: None, code: None }
        };
        let lines: Vec<_> = super::ending::line(&outcome).into_iter().collect();
        self.end_unbegun(entry, outcome, &lines).await
    }

    /// Ends the stage before its first phase, when none can begin any more: a start whose answer nobody
    /// got may still be under way, and nothing but the container's end ends that.
    async fn end_unbegun(
        &self,
        entry: &Entry,
        outcome: StageOutcome,
        lines: &[String],
    ) -> Result<(), StageError> {
        if entry.step > Step::Granted {
            let name = container_name(self.attempt);
            self.ask(|| self.shared.engine.remove(&name)).await?;
            if self.has_begun().await {
                tracing::warn!(attempt = %self.attempt, "the container began when it was to be given up");
                return Ok(self.shared.journal.step(self.attempt, Step::Started).await?);
            }
        }
        self.end_early(outcome, lines).await
    }

    fn container(&self) -> Result<Spec, StageError> {
        let config = &self.shared.config;
        let directories = &self.directories;
        let own = |source: &std::path::Path, target: &str, is_read_only| Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            is_read_only,
        };
        let mut mounts = vec![
            own(&self.shared.worker_binary, WORKER_BINARY, true),
            own(&directories.spool, "/gantry/spool", false),
            own(&directories.order, "/gantry/in", false),
            own(&directories.workspace, "/mnt/workspace", false),
        ];
        mounts.extend(config.tool_dir.iter().map(|dir| own(dir, crate::tool::HOST_PROGRAMS, true)));
        mounts.extend(config.mounts_of(self.attempt.stage).map(|mount| Mount {
            source: mount.host.clone(),
            target: mount.container.to_string_lossy().into_owned(),
            is_read_only: false,
        }));
        directories.make_order().map_err(self.at())?;
        let mut groups = Vec::new();
        for directory in [&directories.order, &directories.spool] {
            let group = std::fs::metadata(directory).map_err(self.at())?.gid();
            if group != 0 && !groups.contains(&group) {
                groups.push(group);
            }
        }
        Ok(Spec {
            name: container_name(self.attempt),
            image: self.chosen_image(),
            labels: BTreeMap::from([
                (POOL_LABEL.to_owned(), config.token.pool.to_string()),
                ("gantry.worker".to_owned(), self.shared.journal.worker().to_string()),
                ("gantry.run".to_owned(), self.attempt.run.to_string()),
                ("gantry.stage".to_owned(), self.attempt.stage.to_string()),
                ("gantry.epoch".to_owned(), self.attempt.epoch.to_string()),
            ]),
            mounts,
            entrypoint: WORKER_BINARY.to_owned(),
            network: config.network.clone(),
            runtime: config.runtime.clone(),
            groups,
            stop_grace: config.stop_grace.get() + super::MARGIN,
            limits: self.shared.limits,
        })
    }

    /// The image that was here when the stage was allowed, whatever its name has come to mean since.
    pub(super) fn chosen_image(&self) -> String {
        let allowed = self.entry().and_then(|entry| entry.allowed);
        let id = allowed.map(|allowed| allowed.image).filter(|id| !id.is_empty());
        id.unwrap_or_else(|| self.image().to_owned())
    }

    /// The image as stack or launcher name it.
    pub(super) fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or(&self.shared.config.runner_image)
    }
}

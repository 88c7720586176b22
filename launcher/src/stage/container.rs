//! Makes and starts the stage's container.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use gantry_protocol::message::{StageOutcome, Step};

use super::barrier::{self, Next};
use super::{Stage, StageError, Wish, container_name};
use crate::container::{Engine, EngineError, Mount, POOL_LABEL, Spec};
use crate::journal::Entry;

/// The longest pause between two tries while the engine is away.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Where the worker binary is in the container.
const WORKER_BINARY: &str = "/gantry/bin/gantry-worker";

/// Asks an engine until it answers: one that restarts is waited for.
pub(super) async fn persist<T, F>(mut call: impl FnMut() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let mut pause = Duration::from_millis(200);
    loop {
        match call().await {
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, "waiting for the container engine");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            other => return other,
        }
    }
}

impl<E: Engine> Stage<E> {
    /// Takes the step that the barrier allows.
    pub(super) async fn begin(&self, entry: &Entry) -> Result<(), StageError> {
        let name = container_name(self.attempt);
        let state = persist(|| self.shared.engine.state(&name)).await?;
        let has_begun = self.has_begun()?;
        let next = barrier::next(entry.step, state, has_begun);
        tracing::debug!(attempt = %self.attempt, step = ?entry.step, ?state, has_begun, ?next, "at the barrier");
        match next {
            Next::Follow => Ok(self.shared.journal.step(self.attempt, Step::Started)?),
            Next::Prepare | Next::Create | Next::Start if self.wish() == Wish::Stop => {
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
        crate::workspace::make(&self.directories.spool, 0o770).map_err(self.at())?;
        gantry_spool::lay_out(&self.directories.spool)?;
        self.shared.journal.step(self.attempt, Step::Creating)?;
        let spec = self.container()?;
        match persist(|| self.shared.engine.create(&spec)).await {
            Ok(()) => Ok(self.shared.journal.step(self.attempt, Step::Created)?),
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
        self.shared.journal.step(self.attempt, Step::Starting)?;
        let name = container_name(self.attempt);
        match persist(|| self.shared.engine.start(&name)).await {
            Ok(()) => Ok(self.shared.journal.step(self.attempt, Step::Started)?),
            // It may have been started all the same: only the mark tells.
            Err(error) if self.has_begun()? => {
                tracing::warn!(attempt = %self.attempt, %error, "the start failed and the stage has begun");
                Ok(self.shared.journal.step(self.attempt, Step::Started)?)
            }
            Err(error) => self.failed_early(entry, &error).await,
        }
    }

    pub(super) fn has_begun(&self) -> Result<bool, StageError> {
        if !self.directories.spool.exists() {
            return Ok(false);
        }
        Ok(gantry_spool::has_begun(&self.directories.spool)?)
    }

    async fn stopped_early(&self, entry: &Entry) -> Result<(), StageError> {
        let reason = entry.stop.clone().unwrap_or_else(|| "asked to stop".to_owned());
        let line = format!("stopped before the first phase: {reason}");
        self.end_early(entry, StageOutcome::Stopped { reason }, &[line]).await
    }

    pub(super) async fn failed_early(
        &self,
        entry: &Entry,
        error: &(dyn std::error::Error + Sync),
    ) -> Result<(), StageError> {
        let reason = super::chain(error);
        let reason = crate::terraform::mask(&reason, &self.secrets);
        let outcome = StageOutcome::Failed { reason: reason.clone(), phase: None, code: None };
        self.end_early(entry, outcome, &[reason]).await
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
        mounts.extend(config.mounts_of(self.attempt.stage).map(|mount| Mount {
            source: mount.host.clone(),
            target: mount.container.to_string_lossy().into_owned(),
            is_read_only: false,
        }));
        crate::workspace::make(&directories.order, 0o770).map_err(self.at())?;
        let group = std::fs::metadata(&directories.order).map_err(self.at())?.gid();
        Ok(Spec {
            name: container_name(self.attempt),
            image: self.image().to_owned(),
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
            group: (group != 0).then_some(group),
            stop_grace: config.stop_grace.get() + super::follow::MARGIN,
        })
    }

    pub(super) fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or(&self.shared.config.runner_image)
    }
}

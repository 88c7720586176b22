//! From the grant to a workspace that a container can be made for.

use gantry_model::Section;

use super::StageError;
use super::policy::Asked;
use crate::blob::BlobError;
use crate::engine::{Engine, EngineError};
use crate::journal::Entry;
use crate::log::Log;
use crate::tool::{self, UnfitSource};
use crate::workspace::WorkspaceError;

/// Why the workspace cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Unfit(#[from] UnfitSource),
    #[error("the image {image} is not on this host and cannot be pulled")]
    Image { image: String, source: EngineError },
    #[error("the image {image} was pulled and is not on this host: something removes images here")]
    Gone { image: String },
    #[error(
        "the plan was made in the image {image} when that was {id}, which is not on this host and cannot be pulled by its digest: bring it here (pull it, or load it from a file) and confirm again, or trigger a new run"
    )]
    PlannedIn { image: String, id: String },
    #[error(transparent)]
    State(#[from] super::state::StateError),
    #[error("bringing the image was given up")]
    CalledOff,
    #[error("the {what} takes {size} bytes: the limit is {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
}

impl<E: Engine> super::Stage<E> {
    /// Brings the image here, asks the policy and lays the workspace out.
    pub(super) async fn prepare(&self, entry: &Entry) -> Result<(), StageError> {
        // Whoever waited before this may have said so in the log.
        let entry = &self.entry().unwrap_or_else(|| entry.clone());
        let mut log = self.log(entry);
        if !self.unmasked.is_empty() {
            log.say(Section::Prepare, &self.unmasked, Vec::new()).await?;
        }
        let brought = async {
            self.check_recipients().map_err(PrepareError::from)?;
            tokio::select! {
                biased;
                () = self.limit.over() => Err(PrepareError::CalledOff.into()),
                brought = self.bring(&mut log) => brought,
            }
        };
        let laid_out = match brought.await {
            Ok(image) => match self.ask_policy(entry, &image).await? {
                Asked::Allowed if self.spec.workspace.is_some() => Ok(image),
                Asked::Allowed => self.lay_out(&mut log).await.map(|()| image),
                Asked::Denied | Asked::CalledOff => return Ok(()),
            },
            Err(error) => Err(error),
        };
        match laid_out {
            Ok(image) => {
                self.shared.journal.write(self.permission(&image)).await?;
                Ok(())
            }
            Err(Preparing::Stage(error)) => Err(error),
            Err(Preparing::Run(error)) => self.failed_early(entry, &error).await,
        }
    }

    pub(super) async fn lay_out(&self, log: &mut Log) -> Result<(), Preparing> {
        if let Some(sealed) = &self.spec.workspace {
            say(log, "opening the workspace of the plan".to_owned()).await?;
            return Ok(self.open_workspace(log, sealed).await?);
        }
        if let Some(source) = &self.spec.source {
            say(log, format!("unpacking the source {}", source.sha256)).await?;
            self.unpack_source(log, source).await?;
        } else {
            self.directories
                .empty_workspace()
                .map_err(WorkspaceError::Io)
                .map_err(PrepareError::from)?;
        }
        (tool::of(&self.spec).check_source)(&self.job()).map_err(PrepareError::from)?;
        Ok(())
    }
}

/// What stops preparing: the run's own fault, or this host's.
pub(super) enum Preparing {
    Run(PrepareError),
    Stage(StageError),
}

impl From<PrepareError> for Preparing {
    fn from(error: PrepareError) -> Self {
        Self::Run(error)
    }
}

impl From<crate::log::LogError> for Preparing {
    fn from(error: crate::log::LogError) -> Self {
        Self::Stage(error.into())
    }
}

pub(super) async fn say(log: &mut Log, line: String) -> Result<(), crate::log::LogError> {
    log.say(Section::Prepare, &[line], Vec::new()).await
}

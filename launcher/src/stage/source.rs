//! Gets the source of a stage, or the workspace of its plan, and unpacks it.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::MAX_SOURCE;
use gantry_protocol::spec::{SealedWorkspace, Source};

use super::Stage;
use super::jobs::Whether;
use super::prepare::PrepareError;
use super::waits::{Awaited, STORE};
use crate::blob::{BlobError, Expected};
use crate::engine::Engine;
use crate::log::Log;
use crate::workspace::{self, WorkspaceError};

impl<E: Engine> Stage<E> {
    pub(super) async fn unpack_source(
        &self,
        log: &mut Log,
        source: &Source,
    ) -> Result<(), PrepareError> {
        bounded("source", source.size, MAX_SOURCE)?;
        let mut file =
            workspace::passing_file(&self.directories.root).map_err(WorkspaceError::Io)?;
        let expected = Expected { what: "source", size: source.size, sha256: Some(&source.sha256) };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &source.url, expected, &mut file);
        self.wait_with(log, &awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        let directories = self.directories.clone();
        let config = Arc::clone(&self.shared.config);
        self.blocking(move |whether| {
            use std::io::Seek as _;
            file.rewind()?;
            let file = whether.until(file);
            let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
            workspace::open_source(&directories, file, &keys)
        })
        .await?;
        Ok(())
    }

    pub(super) async fn open_workspace(
        &self,
        log: &mut Log,
        sealed: &SealedWorkspace,
    ) -> Result<(), PrepareError> {
        bounded("workspace", sealed.size, workspace::MAX_SEALED)?;
        let mut file =
            workspace::passing_file(&self.directories.root).map_err(WorkspaceError::Io)?;
        let expected = Expected { what: "workspace", size: sealed.size, sha256: None };
        let awaited = Awaited::new(STORE);
        let got = self.get(&awaited, &sealed.url, expected, &mut file);
        self.wait_with(log, &awaited, got).await.unwrap_or(Err(BlobError::CalledOff))?;
        let (directories, sealed, stack, attempt) =
            (self.directories.clone(), sealed.clone(), self.spec.stack.clone(), self.attempt);
        let config = Arc::clone(&self.shared.config);
        self.blocking(move |whether| {
            use std::io::Seek as _;
            file.rewind()?;
            let file = whether.until(file);
            let keys: Vec<_> = std::iter::once(&config.key).chain(&config.former_keys).collect();
            workspace::open(&directories, file, &sealed, &stack, attempt, &keys)
        })
        .await?;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Whether) -> Result<T, WorkspaceError> + Send + 'static,
    ) -> Result<T, WorkspaceError> {
        self.jobs.run(work).await.unwrap_or_else(|error| Err(error.into()))
    }

    /// Gets an object; a store that is away is asked again. Whoever waits for it bounds that.
    pub(super) async fn get(
        &self,
        awaited: &Awaited,
        url: &str,
        expected: Expected<'_>,
        into: &mut (impl Write + Restart + Send),
    ) -> Result<(), BlobError> {
        let mut pause = Duration::from_millis(200);
        loop {
            match self.shared.objects.get(url, expected, into).await {
                Err(error) if error.is_passing() => {
                    awaited.failed(&error);
                    tracing::warn!(attempt = %self.attempt, %error, "getting it failed; trying again");
                    into.restart()?;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                other => return other,
            }
        }
    }
}

/// What can be written from its beginning again.
pub trait Restart {
    /// Forgets what was written.
    fn restart(&mut self) -> std::io::Result<()>;
}

impl Restart for Vec<u8> {
    fn restart(&mut self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Restart for fs::File {
    fn restart(&mut self) -> std::io::Result<()> {
        use std::io::Seek as _;
        self.rewind()?;
        self.set_len(0)
    }
}

fn bounded(what: &'static str, size: u64, limit: u64) -> Result<(), PrepareError> {
    if size > limit { Err(PrepareError::TooLarge { what, size, limit }) } else { Ok(()) }
}

//! Brings the image of a stage to this host.

use super::Stage;
use super::prepare::{PrepareError, Preparing, say};
use crate::engine::{Engine, EngineError, Image};
use crate::log::Log;
use crate::workspace::{Handover, PlannedIn, WorkspaceError};

/// How often a pull that broke off is begun again.
const PULLS_AGAIN: u32 = 3;

impl<E: Engine> Stage<E> {
    /// Brings the image here; for a plan that is to be applied the one in which it was planned, which its
    /// workspace names. Nothing of that runs before the policy was asked.
    pub(super) async fn bring(&self, log: &mut Log) -> Result<Image, Preparing> {
        if self.spec.workspace.is_none() {
            return self.bring_image(log, self.image()).await;
        }
        self.lay_out(log).await?;
        let handover = Handover::read(&self.directories.workspace).map_err(WorkspaceError::Io);
        let Some(PlannedIn { id, digests }) = handover.map_err(PrepareError::from)?.image else {
            return self.bring_image(log, self.image()).await;
        };
        let here = self.ask_with(log, || self.shared.engine.image(&id)).await;
        if let Ok(Some(image)) = here {
            return Ok(image);
        }
        for digest in digests {
            match self.bring_image(log, &digest).await {
                Err(Preparing::Run(PrepareError::Image { .. })) => {}
                other => return other,
            }
        }
        Err(PrepareError::PlannedIn { image: self.image().to_owned(), id }.into())
    }

    async fn bring_image(&self, log: &mut Log, name: &str) -> Result<Image, Preparing> {
        let engine = &self.shared.engine;
        let failed =
            |source| Preparing::Run(PrepareError::Image { image: name.to_owned(), source });
        if let Some(image) = self.ask_with(log, || engine.image(name)).await.map_err(failed)? {
            return Ok(image);
        }
        say(log, format!("pulling the image {name}")).await?;
        let (lines, mut seen) = tokio::sync::mpsc::channel::<String>(64);
        // A line that finds no room is one of many of the same pull.
        let progress = move |line: String| drop(lines.try_send(line));
        let mut again = PULLS_AGAIN;
        loop {
            let mut pull = std::pin::pin!(engine.pull(name, &progress));
            let pulled = loop {
                tokio::select! {
                    pulled = &mut pull => break pulled,
                    Some(line) = seen.recv() => say(log, line).await?,
                }
            };
            match pulled {
                // The engine was restarted: what it has of the image is kept.
                Err(EngineError::Unreachable { .. }) if again > 0 => {
                    again -= 1;
                    self.ask_with(log, || engine.ping()).await.map_err(failed)?;
                    say(
                        log,
                        format!("{} broke off, pulling the image {name} again", engine.name()),
                    )
                    .await?;
                }
                pulled => {
                    pulled.map_err(failed)?;
                    let gone = || PrepareError::Gone { image: name.to_owned() };
                    let here = self.ask_with(log, || engine.image(name)).await.map_err(failed)?;
                    return here.ok_or_else(|| gone().into());
                }
            }
        }
    }
}

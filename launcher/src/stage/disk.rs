//! The disks of the host, which a stage must not fill: what has to stay free, and what a run may take.

use std::path::PathBuf;
use std::time::Duration;

use gantry_model::Stage as StageKind;
use gantry_spool::Limits;
use tokio::time::Instant;

use super::{Stage, container_name};
use crate::config::Limit;
use crate::engine::Engine;
use crate::limits::{self, Held, Look, LowDisk, Overrun, Uncounted, Usage};

/// The disks are looked at this often.
const LOOK: Duration = Duration::from_secs(2);

impl<E: Engine> Stage<E> {
    /// Resolves when a disk of this host has less free than is kept, and had more when the stage began: one that
    /// was low before is not this stage's doing. An apply is not stopped for an outage: what its spool holds back
    /// while the store is away does not count, up to the spool's own limit.
    pub(super) async fn low_disk(&self) -> LowDisk {
        let disks = || self.shared.disks.iter().map(PathBuf::as_path);
        let reserve = self.shared.config.amounts.disk_reserve;
        let held = match self.attempt.stage {
            StageKind::Read => Held::default(),
            StageKind::Write => {
                Held { by: Some(&self.directories.spool), at_most: Limits::WRITE_QUOTA }
            }
        };
        let look = |path| limits::low_disk(path, reserve, held);
        let watched: Vec<_> = disks().filter(|path| look(path).is_none()).collect();
        loop {
            if let Some(low) = watched.iter().find_map(|path| look(path)) {
                return low;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Resolves when the run has more in its workspace and its container than it may. The default is derived once
    /// for an attempt: what others write later is not held against it.
    pub(super) async fn overrun(&self) -> Overrun {
        let limit = match self.shared.config.amounts.disk {
            Limit::None => return std::future::pending().await,
            Limit::At(bytes) => Some(bytes),
            Limit::OfHost => self.directories.disk_limit(),
        };
        let mut usage = Usage::of(limit);
        loop {
            // Most stages are over before they could have filled a disk.
            tokio::time::sleep(LOOK).await;
            if usage.is_due(limits::free(&self.shared.disks)) {
                match self.look().await {
                    Ok(look) => self.keep_limit(usage.saw(look)),
                    Err(uncounted) => return uncounted.into(),
                }
            }
            if let Some(overrun) = usage.overrun() {
                return overrun;
            }
        }
    }

    /// On a disk that does not take it, whoever drives on derives it again.
    fn keep_limit(&self, derived: Option<u64>) {
        let Some(bytes) = derived else { return };
        if let Err(error) = self.directories.keep_disk_limit(bytes) {
            tracing::warn!(attempt = %self.attempt, %error, "the limit of what the run may write cannot be kept");
        }
    }

    /// What the run has on the disks, and what is free beside it. An engine that does not answer adds nothing to
    /// how long that took.
    async fn look(&self) -> Result<Look, Uncounted> {
        let began = Instant::now();
        let free = limits::free(&self.shared.disks);
        let name = container_name(self.attempt);
        let workspace = async {
            let bytes = limits::of_directory(self.directories.workspace.clone()).await;
            (bytes, began.elapsed())
        };
        let container = async {
            let bytes = self.shared.engine.written(&name).await.ok()?;
            // None: it does not tell of any container, or there is no such one any more.
            Some((bytes.unwrap_or(0), began.elapsed()))
        };
        let ((workspace, took), container) = tokio::join!(workspace, container);
        Ok(Look {
            workspace: workspace?,
            container: container.map(|(bytes, _)| bytes),
            free,
            took: container.map_or(took, |(_, answered)| took.max(answered)),
        })
    }
}

//! The disks of the host, which a stage must not fill: what has to stay free, and what a run may take.

use std::path::PathBuf;
use std::time::Duration;

use gantry_model::Stage as StageKind;
use gantry_spool::Limits;
use tokio::time::Instant;

use super::{Stage, container_name};
use crate::engine::Engine;
use crate::limits::{self, Held, LowDisk, Overrun, Usage};

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

    /// Resolves when the run has more in its workspace and its container than it may.
    pub(super) async fn overrun(&self) -> Overrun {
        // Most stages are over before they could have filled a disk.
        tokio::time::sleep(LOOK).await;
        let (written, free, took) = self.measure().await;
        let limit = self.shared.config.amounts.disk;
        let Some(mut usage) = Usage::begin(limit, written, free, took) else {
            return std::future::pending().await;
        };
        loop {
            if let Some(overrun) = usage.overrun() {
                return overrun;
            }
            tokio::time::sleep(LOOK).await;
            if usage.is_due(limits::free(&self.shared.disks)) {
                let (written, free, took) = self.measure().await;
                usage.measured(written, free, took);
            }
        }
    }

    /// What the run has on the disks, what is free beside it, and how long it took to see that. An engine that
    /// does not answer is not waited for: its containers have what is seen of them the next time.
    async fn measure(&self) -> (u64, Option<u64>, Duration) {
        let began = Instant::now();
        let free = limits::free(&self.shared.disks);
        let name = container_name(self.attempt);
        let workspace = limits::of_directory(self.directories.workspace.clone());
        let (workspace, container) = tokio::join!(workspace, self.shared.engine.written(&name));
        let written = workspace.saturating_add(container.unwrap_or(None).unwrap_or(0));
        (written, free, began.elapsed())
    }
}

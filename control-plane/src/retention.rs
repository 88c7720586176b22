//! What is forgotten, and when.
//!
//! Only what nobody needs any more: rows of workers, journals and nonces that were not heard of for
//! long, and the workspaces and specs of runs that are over. Logs, state versions, sources and the
//! audit are kept. Nothing is forgotten in the first hour of a server: by then every launcher that
//! lives has said hello, however long the server itself was away.

use crate::core::Core;
use crate::fleet::ingest::Ingest;
use crate::objects::Objects;
use crate::pools::certificates::Certificates;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{RunId, Timestamp, clear_at};
use tokio_util::sync::CancellationToken;

use crate::clock::millis;
use crate::error::OperationError;
use crate::objects::MAX_LIST;
use crate::store::retention::{
    delete_old_journals, delete_old_nonces, delete_old_worker, old_workers, runs_to_clear,
};
use crate::store::runs::set_clear_at;
use crate::store::workspaces::delete_workspaces;

/// How often it is looked for what can be forgotten.
const EVERY: Duration = Duration::from_hours(1);
/// A worker that was not heard for so long is forgotten, its drain with it.
const WORKER: Duration = Duration::from_hours(30 * 24);
/// How long it is known how far a journal was taken in. A launcher that comes back later is told to
/// begin a new one.
const JOURNAL: Duration = Duration::from_hours(400 * 24);
/// How long an old hello is known to be one.
const NONCE: Duration = Duration::from_hours(30 * 24);
/// The most rows that one transaction looks at.
const BATCH: i64 = 500;

/// Forgets what nobody needs any more. Clones are the same.
#[derive(Clone)]
pub struct Retention {
    core: Core,
    objects: Arc<dyn Objects>,
    certificates: Arc<Certificates>,
    ingest: Ingest,
}

impl Deref for Retention {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Retention {
    pub(crate) fn new(
        core: Core,
        objects: Arc<dyn Objects>,
        certificates: Arc<Certificates>,
        ingest: Ingest,
    ) -> Self {
        Self { core, objects, certificates, ingest }
    }

    /// Forgets from time to time.
    pub(crate) async fn forget_at_times(&self, leave: &CancellationToken) {
        loop {
            let next = self.now().plus_ms(millis(EVERY));
            if leave.run_until_cancelled(self.clock().until(next)).await.is_none() {
                return;
            }
            if let Err(error) = self.forget().await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot forget what is old"
                );
            }
        }
    }

    /// Forgets all that is old enough.
    ///
    /// # Errors
    /// When the database fails. What was forgotten until then stays so.
    pub async fn forget(&self) -> Result<(), OperationError> {
        self.forget_workers().await?;
        self.forget_journals().await?;
        self.forget_nonces().await?;
        self.clear_runs().await
    }

    async fn forget_workers(&self) -> Result<(), OperationError> {
        loop {
            let before = self.before(WORKER);
            let old = {
                let mut conn = self.store().read().await?;
                old_workers(&mut conn, before, BATCH).await?
            };
            if old.is_empty() {
                return Ok(());
            }
            // In this order, as whoever takes messages in does.
            let mut positions = self.ingest.positions.lock().await;
            let mut unit = self.begin().await?;
            let mut gone = Vec::new();
            for key in old {
                if delete_old_worker(unit.conn(), key.0, key.1, before).await? {
                    gone.push(key);
                }
            }
            unit.commit().await?;
            for key in &gone {
                positions.forget(*key);
                self.sessions().end(*key);
                self.certificates.forget_worker(key.1, key.0);
            }
            tracing::info!(
                workers = gone.len(),
                "forgot workers that had not been heard from for a long time"
            );
        }
    }

    async fn forget_journals(&self) -> Result<(), OperationError> {
        loop {
            let before = self.before(JOURNAL);
            let mut unit = self.begin().await?;
            let deleted = delete_old_journals(unit.conn(), before, BATCH).await?;
            unit.commit().await?;
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    async fn forget_nonces(&self) -> Result<(), OperationError> {
        loop {
            let before = self.before(NONCE);
            let mut unit = self.begin().await?;
            let deleted = delete_old_nonces(unit.conn(), before, BATCH).await?;
            unit.commit().await?;
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    /// Removes workspaces and specs of runs that are over for long enough. The rows go last, so that
    /// what fails is tried again, later.
    async fn clear_runs(&self) -> Result<(), OperationError> {
        loop {
            let due = {
                let mut conn = self.store().read().await?;
                runs_to_clear(&mut conn, self.now(), BATCH).await?
            };
            if due.is_empty() {
                return Ok(());
            }
            let mut runs: Vec<(RunId, bool)> = Vec::new();
            for run in due {
                let removed = self.remove_leftovers(run).await;
                if let Err(error) = &removed {
                    tracing::warn!(%run, error = error as &dyn std::error::Error, "cannot remove what a run left");
                }
                runs.push((run, removed.is_ok()));
            }
            let mut unit = self.begin().await?;
            let later = clear_at(unit.now());
            for (run, is_removed) in runs {
                if is_removed {
                    delete_workspaces(unit.conn(), run).await?;
                }
                set_clear_at(unit.conn(), run, (!is_removed).then_some(later)).await?;
            }
            unit.commit().await?;
        }
    }

    async fn remove_leftovers(&self, run: RunId) -> Result<(), OperationError> {
        self.remove_below(&format!("workspace/{run}/")).await?;
        self.remove_below(&format!("spec/{run}/")).await
    }

    async fn remove_below(&self, prefix: &str) -> Result<(), OperationError> {
        loop {
            let listed = self.objects.list(prefix, None, MAX_LIST).await?;
            if listed.is_empty() {
                return Ok(());
            }
            for object in listed {
                self.objects.delete(&object.key).await?;
            }
        }
    }

    fn before(&self, kept: Duration) -> Timestamp {
        Timestamp(self.now().0.saturating_sub(millis(kept)))
    }
}

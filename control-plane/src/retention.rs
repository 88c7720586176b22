//! What is forgotten, and when.
//!
//! Only what nobody needs any more: rows of workers, journals and nonces that were not heard of for
//! long, and the workspaces and specs of runs that are over. Logs, state versions, sources and the
//! audit are kept. Nothing is forgotten in the first hour of a server: by then every launcher that
//! lives has said hello, however long the server itself was away.

use std::time::Duration;

use gantry_model::{RunId, Timestamp};
use sqlx::Row as _;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, WorkerKey};
use crate::dispatch::millis;
use crate::error::OperationError;
use crate::objects::MAX_LIST;
use crate::store::{clear_later, id, to_db};

/// How often it is looked for what can be forgotten.
const EVERY: Duration = Duration::from_hours(1);
/// A worker that was not heard for so long is forgotten, its drain with it.
const WORKER: Duration = Duration::from_hours(30 * 24);
/// How long it is known how far a journal was taken in. A launcher that comes back later is told to
/// begin a new one.
const JOURNAL: Duration = Duration::from_hours(400 * 24);
/// How long an old hello is known to be one.
const NONCE: Duration = Duration::from_hours(30 * 24);
/// How long a run's workspaces and specs are kept after its end: longer than any url to one is good.
const LEFTOVERS: Duration = Duration::from_hours(24);
/// The most rows that one transaction looks at.
const BATCH: i64 = 500;

const OLD_JOURNALS: &str = "DELETE FROM journals WHERE (pool, worker, journal) IN \
    (SELECT pool, worker, journal FROM journals WHERE heard_at < $1 LIMIT $2)";
const OLD_NONCES: &str = "DELETE FROM nonces WHERE (pool, worker, nonce) IN \
    (SELECT pool, worker, nonce FROM nonces WHERE at < $1 LIMIT $2)";
/// Workers `w` that nobody misses.
const IS_OLD: &str = "w.heard_at < $1 AND w.run IS NULL AND NOT EXISTS \
    (SELECT 1 FROM runs r WHERE r.pool = w.pool AND r.worker = w.id)";

/// When the leftovers of a run that ended now can go.
pub(crate) fn clear_at(now: Timestamp) -> i64 {
    to_db(now.plus_ms(millis(LEFTOVERS)).0)
}

impl ControlPlane {
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
        self.forget_rows(OLD_JOURNALS, JOURNAL).await?;
        self.forget_rows(OLD_NONCES, NONCE).await?;
        self.clear_runs().await
    }

    async fn forget_workers(&self) -> Result<(), OperationError> {
        let old = format!("SELECT w.pool, w.id FROM workers w WHERE {IS_OLD} LIMIT $2");
        let delete =
            format!("DELETE FROM workers AS w WHERE {IS_OLD} AND w.pool = $2 AND w.id = $3");
        loop {
            let before = self.before(WORKER);
            let rows = {
                let mut conn = self.store().read().await?;
                let old = sqlx::query(sqlx::AssertSqlSafe(old.as_str())).bind(before).bind(BATCH);
                old.fetch_all(&mut *conn).await?
            };
            if rows.is_empty() {
                return Ok(());
            }
            // In this order, as whoever takes messages in does.
            let mut intakes = self.inner.intakes.lock().await;
            let mut unit = self.begin().await?;
            let mut gone = Vec::new();
            for row in rows {
                let key: WorkerKey = (id("pool", row.get("pool"))?, id("worker", row.get("id"))?);
                let (pool, worker) = (key.0.to_string(), key.1.to_string());
                let delete = sqlx::query(sqlx::AssertSqlSafe(delete.as_str())).bind(before);
                let delete = delete.bind(&pool).bind(&worker).execute(unit.conn()).await?;
                if delete.rows_affected() == 1 {
                    let outbox = "DELETE FROM outbox WHERE pool = $1 AND worker = $2";
                    sqlx::query(outbox).bind(pool).bind(worker).execute(unit.conn()).await?;
                    gone.push(key);
                }
            }
            unit.commit().await?;
            for key in &gone {
                intakes.remove(key);
                self.set_bond(*key, None);
                self.inner.admitted.forget_worker(key.1, key.0);
            }
            tracing::info!(
                workers = gone.len(),
                "forgot workers that had not been heard from for a long time"
            );
        }
    }

    async fn forget_rows(&self, sql: &'static str, kept: Duration) -> Result<(), OperationError> {
        loop {
            let mut unit = self.begin().await?;
            let deleted = sqlx::query(sql).bind(self.before(kept)).bind(BATCH);
            let deleted = deleted.execute(unit.conn()).await?.rows_affected();
            unit.commit().await?;
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    /// Removes workspaces and specs of runs that are over for long enough. The rows go last, so that
    /// what fails is tried again, later.
    async fn clear_runs(&self) -> Result<(), OperationError> {
        let due = "SELECT id FROM runs WHERE clear_at <= $1 ORDER BY clear_at LIMIT $2";
        loop {
            let now = to_db(self.now().0);
            let rows = {
                let mut conn = self.store().read().await?;
                sqlx::query(due).bind(now).bind(BATCH).fetch_all(&mut *conn).await?
            };
            if rows.is_empty() {
                return Ok(());
            }
            let mut runs: Vec<(RunId, bool)> = Vec::new();
            for row in rows {
                let run = id("run", row.get("id"))?;
                let removed = self.remove_leftovers(run).await;
                if let Err(error) = &removed {
                    tracing::warn!(%run, error = error as &dyn std::error::Error, "cannot remove what a run left");
                }
                runs.push((run, removed.is_ok()));
            }
            let mut unit = self.begin().await?;
            for (run, is_removed) in runs {
                if !is_removed {
                    clear_later(&mut unit, run).await?;
                    continue;
                }
                for sql in [
                    "DELETE FROM workspaces WHERE run = $1",
                    "UPDATE runs SET clear_at = NULL WHERE id = $1",
                ] {
                    sqlx::query(sql).bind(run.to_string()).execute(unit.conn()).await?;
                }
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
            let listed = self.objects().list(prefix, None, MAX_LIST).await?;
            if listed.is_empty() {
                return Ok(());
            }
            for object in listed {
                self.objects().delete(&object.key).await?;
            }
        }
    }

    fn before(&self, kept: Duration) -> i64 {
        to_db(self.now().0.saturating_sub(millis(kept)))
    }
}

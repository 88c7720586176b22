//! Offers, leases and deadlines that are over.

use gantry_model::{Attempt, Expired, PoolId, RunId, Timestamp, WorkerId};
use gantry_protocol::message::{FromControlPlane, Revoke};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{StoreError, at, id, load_run, save_run, to_db};
use crate::unit::Unit;

/// The most runs that one transaction looks at.
const BATCH: i64 = 100;

impl ControlPlane {
    /// After this process's own start: whoever could not be heard in the meantime gets the time to
    /// come back, and has to say hello first.
    pub(crate) async fn take_up_leases(&self) -> Result<(), OperationError> {
        let mut unit = self.begin().await?;
        sqlx::query("UPDATE workers SET is_connected = 0").execute(unit.conn()).await?;
        sqlx::query("DELETE FROM outbox").execute(unit.conn()).await?;
        self.refresh_leases(&mut unit).await?;
        unit.commit().await?;
        Ok(())
    }

    /// After an interruption of our own, in which nobody could be heard, every lease gets a fresh term.
    pub(crate) async fn interrupted(&self) -> Result<(), OperationError> {
        let mut unit = self.begin().await?;
        self.refresh_leases(&mut unit).await?;
        unit.commit().await?;
        Ok(())
    }

    async fn refresh_leases(&self, unit: &mut Unit) -> Result<(), OperationError> {
        let held = "SELECT id FROM runs WHERE due_at IS NOT NULL";
        for row in sqlx::query(held).fetch_all(unit.conn()).await? {
            let run: RunId = id("run", row.get("id"))?;
            let Some(mut row) = load_run(unit.conn(), run).await? else { continue };
            let before = row.life.clone();
            let now = unit.now();
            row.life.refresh(now, self.terms());
            save_run(unit, &before, &mut row).await?;
        }
        Ok(())
    }

    /// Does what is due.
    pub(crate) async fn expire(&self) -> Result<(), OperationError> {
        let due = "SELECT id FROM runs WHERE due_at <= $1 ORDER BY due_at LIMIT $2";
        loop {
            let now = to_db(self.now().0);
            let runs = {
                let mut conn = self.store().read().await?;
                sqlx::query(due).bind(now).bind(BATCH).fetch_all(&mut *conn).await?
            };
            if runs.is_empty() {
                return Ok(());
            }
            let mut unit = self.begin().await?;
            for row in runs {
                self.expire_run(&mut unit, id("run", row.get("id"))?).await?;
            }
            unit.commit().await?;
        }
    }

    async fn expire_run(&self, unit: &mut Unit, run: RunId) -> Result<(), OperationError> {
        let Some(mut row) = load_run(unit.conn(), run).await? else { return Ok(()) };
        let before = row.life.clone();
        let now = unit.now();
        match row.life.expire(now, self.terms()) {
            // Writes down when it is.
            Expired::NotDue => save_run(unit, &before, &mut row).await?,
            Expired::Withdrawn(worker) => {
                save_run(unit, &before, &mut row).await?;
                pass_over(unit, row.pool, worker).await?;
                tracing::info!(%run, %worker, "an offer was not claimed in time");
            }
            Expired::Taken(worker) => {
                save_run(unit, &before, &mut row).await?;
                revoke(unit, row.pool, worker, before.attempt(), "its lease lapsed").await?;
                tracing::warn!(%run, %worker, "the lease of a read stage lapsed");
            }
            Expired::Unknown(worker) => {
                save_run(unit, &before, &mut row).await?;
                tracing::error!(%run, %worker, "the outcome of a write stage is unknown");
            }
        }
        Ok(())
    }

    /// When something is due next.
    pub(crate) async fn next_due(&self) -> Result<Option<Timestamp>, OperationError> {
        let mut conn = self.store().read().await?;
        let first = "SELECT MIN(at) AS at FROM (SELECT MIN(due_at) AS at FROM runs \
                     WHERE due_at IS NOT NULL UNION ALL SELECT MIN(next_at) AS at FROM outbox) both";
        let row = sqlx::query(first).fetch_one(&mut *conn).await?;
        Ok(row.get::<Option<i64>, _>("at").map(at))
    }
}

/// Until it is heard again, the worker gets no offers.
pub(crate) async fn pass_over(
    unit: &mut Unit,
    pool: PoolId,
    worker: WorkerId,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET is_passed_over = 1 WHERE pool = $1 AND id = $2")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(unit.conn())
        .await?;
    Ok(())
}

/// Tells a worker that an attempt is not its own any more.
pub(crate) async fn revoke(
    unit: &mut Unit,
    pool: PoolId,
    worker: WorkerId,
    attempt: Attempt,
    reason: &str,
) -> Result<(), StoreError> {
    let reason = reason.to_owned();
    unit.post(pool, worker, FromControlPlane::Revoke(Revoke { attempt, reason })).await
}

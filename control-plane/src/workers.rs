//! Workers as people and autoscalers see them.

use std::collections::BTreeMap;

use gantry_model::{PoolId, RunId, Timestamp, WorkerId};
use gantry_protocol::message::{Drain, FromControlPlane, Versions};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{Row, at, id, json, maybe_at};

/// A worker.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not depend on each other")]
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolId,
    /// When it first said hello.
    pub created_at: Timestamp,
    /// Since when it has had no run; none while it has one.
    pub available_at: Option<Timestamp>,
    /// When it was last heard.
    pub heard_at: Timestamp,
    /// Whether it has a session.
    pub is_connected: bool,
    /// Whether it has a run.
    pub is_busy: bool,
    /// Whether it takes no new runs.
    pub is_drained: bool,
    /// Whether it says that it is well.
    pub is_healthy: bool,
    /// Why not, in its words.
    pub note: Option<String>,
    /// The run that it has.
    pub run: Option<RunId>,
    /// `SPACELIFT_METADATA_*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// Its launcher's version.
    pub version: String,
    /// Its container engine.
    pub engine: String,
}

/// The most workers that a pool has.
pub(crate) const MAX_WORKERS: i64 = 20_000;

impl ControlPlane {
    /// The workers of a pool that count, newest first: those that are connected, and those that are away
    /// with a run. An autoscaler must not take their hosts for strays.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn workers_of(&self, pool: PoolId) -> Result<Vec<Worker>, OperationError> {
        let counts = "SELECT * FROM workers WHERE pool = $1 AND (is_connected = 1 OR run IS NOT NULL) \
                      ORDER BY id DESC LIMIT $2";
        self.select_workers(pool, counts).await
    }

    /// All workers of a pool that are known, those that are there first, then by when they were
    /// heard. One that was not heard for 30 days and has no run is forgotten.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn known_workers(&self, pool: PoolId) -> Result<Vec<Worker>, OperationError> {
        let known = "SELECT * FROM workers WHERE pool = $1 \
                     ORDER BY is_connected DESC, heard_at DESC, id DESC LIMIT $2";
        self.select_workers(pool, known).await
    }

    async fn select_workers(
        &self,
        pool: PoolId,
        select: &'static str,
    ) -> Result<Vec<Worker>, OperationError> {
        self.pool(pool).await?;
        let mut conn = self.store().read().await?;
        let rows = sqlx::query(select)
            .bind(pool.to_string())
            .bind(MAX_WORKERS)
            .fetch_all(&mut *conn)
            .await?;
        rows.iter().map(read_worker).collect()
    }

    /// The worker of a pool with this id, connected or not.
    ///
    /// # Errors
    /// When there is none.
    pub async fn worker(&self, pool: PoolId, worker: WorkerId) -> Result<Worker, OperationError> {
        let mut conn = self.store().read().await?;
        let row = sqlx::query("SELECT * FROM workers WHERE pool = $1 AND id = $2")
            .bind(pool.to_string())
            .bind(worker.to_string())
            .fetch_optional(&mut *conn)
            .await?;
        read_worker(&row.ok_or_else(|| OperationError::not_found("worker", worker))?)
    }

    /// Sets whether a worker takes no new runs.
    ///
    /// # Errors
    /// When there is no such worker.
    pub async fn set_drained(
        &self,
        actor: &str,
        pool: PoolId,
        worker: WorkerId,
        is_drained: bool,
    ) -> Result<Worker, OperationError> {
        let mut unit = self.begin().await?;
        let changed = sqlx::query("UPDATE workers SET is_drained = $3 WHERE pool = $1 AND id = $2")
            .bind(pool.to_string())
            .bind(worker.to_string())
            .bind(i64::from(is_drained))
            .execute(unit.conn())
            .await?;
        if changed.rows_affected() == 0 {
            return Err(OperationError::not_found("worker", worker));
        }
        let act = if is_drained { "worker.drain" } else { "worker.undrain" };
        unit.audit(actor, act, &format!("worker {worker}"), &format!("pool {pool}")).await?;
        unit.post(pool, worker, FromControlPlane::Drain(Drain { is_drained })).await?;
        unit.wake();
        unit.commit().await?;
        self.worker(pool, worker).await
    }
}

fn read_worker(row: &Row) -> Result<Worker, OperationError> {
    let run: Option<&str> = row.get("run");
    let versions: Versions = json("versions", row.get("versions"))?;
    Ok(Worker {
        id: id("worker", row.get("id"))?,
        pool: id("pool", row.get("pool"))?,
        created_at: at(row.get("created_at")),
        available_at: maybe_at(row.get("available_at")),
        heard_at: at(row.get("heard_at")),
        is_connected: row.get::<i64, _>("is_connected") != 0,
        is_busy: run.is_some(),
        is_drained: row.get::<i64, _>("is_drained") != 0,
        is_healthy: row.get::<i64, _>("is_healthy") != 0,
        note: row.get("note"),
        run: run.map(|run| id("run", run)).transpose()?,
        metadata: json("metadata", row.get("metadata"))?,
        version: versions.launcher,
        engine: row.get("engine"),
    })
}

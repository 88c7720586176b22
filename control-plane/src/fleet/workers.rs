//! Workers as people and autoscalers see them.

use std::ops::Deref;

use gantry_model::{Assignment, PoolId, Stage, WorkerId};
use gantry_protocol::message::{Cycle, Drain, FromControlPlane};

use crate::core::{Core, UnitOfWork};
use crate::error::OperationError;
use crate::pools::Pools;
use crate::runs::change::save_run;
use crate::store::{leases, load_run, workers};

pub use crate::store::workers::Worker;

/// The most workers that a pool has.
pub(crate) const MAX_WORKERS: u32 = 20_000;

/// Workers, as people and autoscalers see them. Clones are the same.
#[derive(Clone)]
pub struct Workers {
    core: Core,
    pools: Pools,
}

impl Deref for Workers {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Workers {
    pub(crate) fn new(core: Core, pools: Pools) -> Self {
        Self { core, pools }
    }

    /// The workers of a pool that count, newest first: those that are connected, and those that are away
    /// with a run. An autoscaler must not take their hosts for strays.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn workers_of(&self, pool: PoolId) -> Result<Vec<Worker>, OperationError> {
        self.pools.pool(pool).await?;
        let mut conn = self.store().read().await?;
        Ok(workers::list_present(&mut conn, pool, MAX_WORKERS).await?)
    }

    /// All workers of a pool that are known, those that are there first, then by when they were
    /// heard. One that was not heard for 30 days and has no run is forgotten.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn known_workers(&self, pool: PoolId) -> Result<Vec<Worker>, OperationError> {
        self.pools.pool(pool).await?;
        let mut conn = self.store().read().await?;
        Ok(workers::list_all(&mut conn, pool, MAX_WORKERS).await?)
    }

    /// The worker of a pool with this id, connected or not.
    ///
    /// # Errors
    /// When there is none.
    pub async fn worker(&self, pool: PoolId, worker: WorkerId) -> Result<Worker, OperationError> {
        let mut conn = self.store().read().await?;
        let found = workers::find_worker(&mut conn, (pool, worker)).await?;
        found.ok_or_else(|| OperationError::not_found("worker", worker))
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
        if !workers::set_drained(unit.conn(), (pool, worker), is_drained).await? {
            return Err(OperationError::not_found("worker", worker));
        }
        let act = if is_drained { "worker.drain" } else { "worker.undrain" };
        unit.audit(actor, act, &format!("worker {worker}"), &format!("pool {pool}")).await?;
        unit.post(pool, worker, FromControlPlane::Drain(Drain { is_drained })).await?;
        unit.wake();
        unit.commit().await?;
        self.worker(pool, worker).await
    }

    /// Lets every connected worker of the pool exit, to be started afresh by its host. Read stages wait for another
    /// worker at once; write stages are finished first, unless `force` interrupts them. Answers how many
    /// workers were told.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn cycle_pool(
        &self,
        actor: &str,
        pool: PoolId,
        force: bool,
    ) -> Result<u64, OperationError> {
        self.pools.pool(pool).await?;
        let mut unit = self.begin().await?;
        let mut told = 0;
        for worker in workers::list_connected(unit.conn(), pool).await? {
            unit.post(pool, worker, FromControlPlane::Cycle(Cycle { force })).await?;
            told += 1;
        }
        give_back(&mut unit, pool).await?;
        let detail = if force { "by force" } else { "" };
        unit.audit(actor, "pool.cycle", &format!("pool {pool}"), detail).await?;
        unit.commit().await?;
        Ok(told)
    }
}

/// Gives back the read stages of a pool's workers, which leave.
async fn give_back(unit: &mut UnitOfWork, pool: PoolId) -> Result<(), OperationError> {
    for run in leases::list_read_stages(unit.conn(), pool).await? {
        let Some(mut row) = load_run(unit.conn(), run).await? else { continue };
        let before = row.lifecycle.clone();
        let Assignment::Granted(lease) = *before.assignment() else { continue };
        debug_assert_eq!(before.stage(), Stage::Read);
        if row.lifecycle.give_back("its worker was cycled") {
            save_run(unit, &before, &mut row).await?;
            unit.revoke((pool, lease.worker), before.attempt(), "the pool was cycled").await?;
        }
    }
    Ok(())
}

//! What changes about pools and their workers.

use async_graphql::{Context, ID, Object, Result};
use gantry_model::WorkerId;

use super::{actor, operations, pool_id};
use crate::http::graphql::error::{not_found, refused};
use crate::http::graphql::types::pool::{Worker, WorkerPool};
use crate::http::graphql::types::ulid;
use crate::pools::PoolChange;

/// Changes of pools.
#[derive(Default)]
pub(crate) struct PoolChanges;

#[Object]
impl PoolChanges {
    /// Gives a pool a new certificate. The old one is worth nothing from then on.
    async fn worker_pool_reset(
        &self,
        ctx: &Context<'_>,
        id: ID,
        certificate_signing_request: String,
    ) -> Result<WorkerPool> {
        let pool = pool_id(&id)?;
        let (actor, csr) = (actor(ctx)?, certificate_signing_request);
        let reset = operations(ctx)?.pools.reset_pool(&actor, pool, &csr).await;
        Ok(reset.map_err(refused)?.0.into())
    }

    /// Sets whether a worker takes no new runs.
    async fn worker_drain_set(
        &self,
        ctx: &Context<'_>,
        worker_pool: ID,
        id: ID,
        drain: bool,
    ) -> Result<Worker> {
        let pool = pool_id(&worker_pool)?;
        let worker = ulid::<WorkerId>(&id).ok_or_else(|| not_found("worker", &id))?;
        let set = operations(ctx)?.workers.set_drained(&actor(ctx)?, pool, worker, drain).await;
        Ok(set.map_err(refused)?.into())
    }

    /// Changes what a pool is called and described as. What is not given stays.
    #[expect(clippy::too_many_arguments, reason = "the public API has them")]
    async fn worker_pool_update(
        &self,
        ctx: &Context<'_>,
        id: ID,
        name: Option<String>,
        description: Option<String>,
        labels: Option<Vec<String>>,
        space: Option<ID>,
        drift_detection_run_limit: Option<i32>,
    ) -> Result<WorkerPool> {
        super::check_pool(space.as_ref(), drift_detection_run_limit)?;
        let change = PoolChange { name, description, labels };
        let changed = operations(ctx)?.pools.change_pool(&actor(ctx)?, pool_id(&id)?, change).await;
        Ok(changed.map_err(refused)?.into())
    }

    /// Ends a pool that no stack uses. Its certificate is worth nothing from then on.
    async fn worker_pool_delete(&self, ctx: &Context<'_>, id: ID) -> Result<Option<WorkerPool>> {
        let deleted = operations(ctx)?.pools.delete_pool(&actor(ctx)?, pool_id(&id)?).await;
        Ok(Some(deleted.map_err(refused)?.into()))
    }

    /// Lets every worker of a pool exit, to be started afresh by its host. Read stages begin anew elsewhere, write
    /// stages are finished first.
    async fn worker_pool_cycle(
        &self,
        ctx: &Context<'_>,
        id: ID,
        #[graphql(desc = "Gantry: interrupts write stages too.")] force: Option<bool>,
    ) -> Result<bool> {
        let (pool, force) = (pool_id(&id)?, force.unwrap_or_default());
        operations(ctx)?.workers.cycle_pool(&actor(ctx)?, pool, force).await.map_err(refused)?;
        Ok(true)
    }
}

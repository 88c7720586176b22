//! What can be asked.

use async_graphql::{Context, Error, ID, Object, Result, SimpleObject};
use gantry_model::{PoolId, RunId, StackId};

use super::error::{found, refused};
use super::session::Viewer;
use super::types::metrics::{Metrics, Usage};
use super::types::pool::{PublicWorkerPool, RecoveryKey, WorkerPool};
use super::types::run::Run;
use super::types::stack::Stack;
use crate::control_plane::ControlPlane;

/// The root of all queries.
pub(super) struct Query;

#[Object]
impl Query {
    /// Who asks.
    #[expect(clippy::unused_async, reason = "resolvers are asynchronous")]
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Option<User>> {
        let viewer = ctx.data::<Viewer>()?;
        Ok(Some(User { id: viewer.id.clone().into(), name: viewer.name.clone() }))
    }

    /// What this server is.
    async fn debug_info(&self) -> DebugInfo {
        DebugInfo { self_hosted_version: String::new(), version: env!("CARGO_PKG_VERSION").into() }
    }

    /// All pools.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn worker_pools(&self, ctx: &Context<'_>) -> Result<Vec<WorkerPool>> {
        let pools = ctx.data::<ControlPlane>()?.pools().await.map_err(refused)?;
        Ok(pools.into_iter().map(WorkerPool::from).collect())
    }

    /// A pool; null if there is none with this id.
    async fn worker_pool(&self, ctx: &Context<'_>, id: ID) -> Result<Option<WorkerPool>> {
        let Ok(id) = id.parse::<PoolId>() else { return Ok(None) };
        let pool = found(ctx.data::<ControlPlane>()?.pool(id).await)?;
        Ok(pool.map(WorkerPool::from))
    }

    /// The pool that the server itself runs. There is none: its counts are 0.
    async fn public_worker_pool(&self) -> PublicWorkerPool {
        PublicWorkerPool::default()
    }

    /// All stacks.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn stacks(&self, ctx: &Context<'_>) -> Result<Vec<Stack>> {
        let stacks = ctx.data::<ControlPlane>()?.stacks().await.map_err(refused)?;
        Ok(stacks.into_iter().map(Stack::from).collect())
    }

    /// A stack; null if there is none with this id.
    async fn stack(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Stack>> {
        let Ok(id) = id.parse::<StackId>() else { return Ok(None) };
        let stack = found(ctx.data::<ControlPlane>()?.stack(&id).await)?;
        Ok(stack.map(Stack::from))
    }

    /// The stack of a run.
    async fn run_stack(&self, ctx: &Context<'_>, run_id: ID) -> Result<Stack> {
        let control_plane = ctx.data::<ControlPlane>()?;
        // Public clients compare the whole message.
        let missing = || Error::new("not found");
        let id = run_id.parse::<RunId>().map_err(|_| missing())?;
        let run = found(control_plane.run(id).await)?.ok_or_else(missing)?;
        Ok(control_plane.stack(&run.stack).await.map_err(refused)?.into())
    }

    /// What is billed: nothing.
    async fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Numbers over all stacks.
    async fn metrics(&self) -> Metrics {
        Metrics
    }

    /// Gantry: a run; null if there is none with this id.
    async fn run(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Run>> {
        let Ok(id) = id.parse::<RunId>() else { return Ok(None) };
        let run = found(ctx.data::<ControlPlane>()?.run(id).await)?;
        Ok(run.map(Run::from))
    }

    /// Gantry: the recovery key; null if none was set.
    async fn recovery_key(&self, ctx: &Context<'_>) -> Result<Option<RecoveryKey>> {
        let pem = ctx.data::<ControlPlane>()?.recovery_key().await.map_err(refused)?;
        pem.map(RecoveryKey::new).transpose()
    }
}

/// Who asks: an API key.
#[derive(SimpleObject)]
struct User {
    /// The key's id.
    id: ID,
    /// The key's name.
    name: String,
}

/// What a server is.
#[derive(SimpleObject)]
struct DebugInfo {
    /// Empty: public clients use the newest shapes of their queries then.
    self_hosted_version: String,
    /// Gantry: this server's version.
    version: String,
}

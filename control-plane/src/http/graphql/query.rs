//! What can be asked.

use async_graphql::{Context, Error, ID, Object, Result, SimpleObject};
use gantry_model::{PoolId, RunId, StackId};

use super::error::{found, refused};
use super::types::key::ApiKey;
use super::types::metrics::{Metrics, Usage};
use super::types::pool::{PublicWorkerPool, RecoveryKey, WorkerPool};
use super::types::run::Run;
use super::types::stack::Stack;
use super::types::{seconds, ulid};
use crate::audit;
use crate::http::Operations;
use crate::keys;
use crate::keys::session::Viewer;
use crate::runs::RunsPage;

/// How many runs one portion has.
const PAGE: u32 = 50;

/// The root of all queries.
pub(crate) struct Query;

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
        let pools = ctx.data::<Operations>()?.pools.pools().await.map_err(refused)?;
        Ok(pools.into_iter().map(WorkerPool::from).collect())
    }

    /// A pool; null if there is none with this id.
    async fn worker_pool(&self, ctx: &Context<'_>, id: ID) -> Result<Option<WorkerPool>> {
        let Some(id) = ulid::<PoolId>(&id) else { return Ok(None) };
        let pool = found(ctx.data::<Operations>()?.pools.pool(id).await)?;
        Ok(pool.map(WorkerPool::from))
    }

    /// The pool that the server itself runs. There is none: its counts are 0.
    async fn public_worker_pool(&self) -> PublicWorkerPool {
        PublicWorkerPool::default()
    }

    /// All stacks.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn stacks(&self, ctx: &Context<'_>) -> Result<Vec<Stack>> {
        let stacks = ctx.data::<Operations>()?.stacks.stacks().await.map_err(refused)?;
        Stack::list(ctx, stacks).await
    }

    /// A stack; null if there is none with this id.
    async fn stack(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Stack>> {
        let Ok(id) = id.parse::<StackId>() else { return Ok(None) };
        let stack = found(ctx.data::<Operations>()?.stacks.stack(&id).await)?;
        Ok(stack.map(Stack::from))
    }

    /// The stack of a run.
    async fn run_stack(&self, ctx: &Context<'_>, run_id: ID) -> Result<Stack> {
        let operations = ctx.data::<Operations>()?;
        // Public clients compare the whole message.
        let missing = || Error::new("not found");
        let id = ulid::<RunId>(&run_id).ok_or_else(missing)?;
        let run = found(operations.runs.run(id).await)?.ok_or_else(missing)?;
        Ok(operations.stacks.stack_of_run(&run).await.map_err(refused)?.into())
    }

    /// What is billed: nothing.
    async fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Numbers over all stacks.
    async fn metrics(&self) -> Metrics {
        Metrics
    }

    /// All API keys, revoked ones included, newest first.
    async fn api_keys(&self, ctx: &Context<'_>) -> Result<Vec<ApiKey>> {
        let keys = keys::list(&ctx.data::<Operations>()?.core).await.map_err(refused)?;
        Ok(keys.into_iter().map(|key| ApiKey::new(key, None)).collect())
    }

    /// An API key; null if there is none with this id.
    async fn api_key(&self, ctx: &Context<'_>, id: ID) -> Result<Option<ApiKey>> {
        let id = id.to_ascii_uppercase();
        let key = found(keys::listed(&ctx.data::<Operations>()?.core, &id).await)?;
        Ok(key.map(|key| ApiKey::new(key, None)))
    }

    /// Gantry: runs of all stacks, newest first: 50, from before the one that is named; only those whose id begins
    /// with a prefix.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn runs(
        &self,
        ctx: &Context<'_>,
        before: Option<ID>,
        prefix: Option<String>,
    ) -> Result<Vec<Run>> {
        let prefix = prefix.unwrap_or_default().to_ascii_uppercase();
        let is_any = prefix.len() <= 26 && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let before = before.filter(|before| !before.is_empty());
        let wanted = before.as_ref().map(|before| ulid::<RunId>(before));
        if !is_any || wanted == Some(None) {
            return Ok(vec![]);
        }
        let page = RunsPage { before: wanted.flatten(), limit: PAGE, ..RunsPage::default() };
        let runs = ctx.data::<Operations>()?.runs.runs(&prefix, page).await.map_err(refused)?;
        Run::list(ctx, runs).await
    }

    /// Gantry: who changed what, newest first: 100, from before the entry that is named.
    async fn audit(&self, ctx: &Context<'_>, before: Option<ID>) -> Result<Vec<AuditEntry>> {
        let before = before.filter(|before| !before.is_empty()).map(|it| it.to_ascii_uppercase());
        let operations = ctx.data::<Operations>()?;
        let entries = operations.audit.audit_log(before.as_deref(), 100).await.map_err(refused)?;
        Ok(entries.into_iter().map(AuditEntry::from).collect())
    }

    /// Gantry: a run; null if there is none with this id.
    async fn run(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Run>> {
        let Some(id) = ulid::<RunId>(&id) else { return Ok(None) };
        let run = found(ctx.data::<Operations>()?.runs.run(id).await)?;
        Ok(run.map(Run::from))
    }

    /// Gantry: the recovery key; null if none was set.
    async fn recovery_key(&self, ctx: &Context<'_>) -> Result<Option<RecoveryKey>> {
        let pem = ctx.data::<Operations>()?.pools.recovery_key().await.map_err(refused)?;
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

/// Gantry: one change.
#[derive(SimpleObject)]
struct AuditEntry {
    /// Its id; later ones are greater.
    id: ID,
    /// When it was made, in seconds since 1970.
    created_at: i64,
    /// Who made it.
    actor: String,
    /// What was done, such as `run.confirm`.
    action: String,
    /// To what.
    subject: String,
    /// More about it.
    detail: String,
}

impl From<audit::AuditEntry> for AuditEntry {
    fn from(entry: audit::AuditEntry) -> Self {
        Self {
            id: entry.id.into(),
            created_at: seconds(entry.at),
            actor: entry.actor,
            action: entry.act,
            subject: entry.subject,
            detail: entry.detail,
        }
    }
}

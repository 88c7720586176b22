//! Stacks, their source and their states.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Context, ID, Object, Result, SimpleObject};
use gantry_model::{PoolId, RunId};

use super::pool::{Recipient, Space, WorkerPool, recipients};
use super::run::Run;
use super::tool::StackConfigVendor;
use super::word::StackState;
use super::{Long, count, seconds, ulid};
use crate::http::Operations;
use crate::http::graphql::error::{found, refused};
use crate::pools;
use crate::runs::{RunsKind, RunsPage};
use crate::sources::StackSource;
use crate::stacks;

/// How many runs one portion has.
const PAGE: u32 = 50;
/// For how long an url to a state can be used.
const URL_TTL: Duration = Duration::from_mins(10);

/// A stack: a source and what its runs need; with it all pools, if they were looked up for a whole list.
pub(crate) struct Stack(stacks::Stack, Arc<HashMap<PoolId, pools::Pool>>);

impl From<stacks::Stack> for Stack {
    fn from(stack: stacks::Stack) -> Self {
        Self(stack, Arc::default())
    }
}

impl Stack {
    /// Stacks of one answer, which share what is looked up for them.
    pub(crate) async fn list(ctx: &Context<'_>, stacks: Vec<stacks::Stack>) -> Result<Vec<Self>> {
        let mut pools = HashMap::new();
        if ctx.look_ahead().field("workerPool").exists() {
            let all = ctx.data::<Operations>()?.pools.pools().await.map_err(refused)?;
            pools.extend(all.into_iter().map(|pool| (pool.id, pool)));
        }
        let pools = Arc::new(pools);
        Ok(stacks.into_iter().map(|stack| Self(stack, Arc::clone(&pools))).collect())
    }
}

#[Object]
impl Stack {
    /// Its id, a slug.
    async fn id(&self) -> ID {
        self.0.id.to_string().into()
    }

    /// Its name.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is for.
    async fn description(&self) -> Option<&str> {
        Some(self.0.description.as_str()).filter(|text| !text.is_empty())
    }

    /// Its labels.
    async fn labels(&self) -> &[String] {
        &self.0.labels
    }

    /// The space that it is in; there is one, `root`.
    async fn space(&self) -> &'static str {
        "root"
    }

    /// The space that it is in; there is one.
    async fn space_details(&self) -> Space {
        Space::root()
    }

    /// The state of its newest run that may change something.
    async fn state(&self) -> StackState {
        self.0.state.into()
    }

    /// The pool that runs it.
    async fn worker_pool(&self, ctx: &Context<'_>) -> Result<Option<WorkerPool>> {
        if let Some(pool) = self.1.get(&self.0.pool) {
            return Ok(Some(WorkerPool::from(pool.clone())));
        }
        let pool = found(ctx.data::<Operations>()?.pools.pool(self.0.pool).await)?;
        Ok(pool.map(WorkerPool::from))
    }

    /// The run with this id, if it is one of this stack.
    async fn run(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Run>> {
        self.own_run(ctx, &id).await
    }

    /// The same; public clients ask it whether a run is over.
    async fn run_resource_state(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Run>> {
        self.own_run(ctx, &id).await
    }

    /// Its runs but for proposed ones, newest first: 50, from before the one that is named.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn runs(&self, ctx: &Context<'_>, before: Option<ID>) -> Result<Vec<Run>> {
        self.page(ctx, RunsKind::Others, before).await
    }

    /// Its proposed runs, newest first: 50, from before the one that is named.
    #[graphql(complexity = "1 + 10 * child_complexity")]
    async fn proposed_runs(&self, ctx: &Context<'_>, before: Option<ID>) -> Result<Vec<Run>> {
        self.page(ctx, RunsKind::Proposed, before).await
    }

    /// When it was created, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.0.created_at)
    }

    /// When it last changed, in seconds since 1970.
    async fn updated_at(&self) -> i64 {
        seconds(self.0.updated_at)
    }

    /// Whether changes are applied without a confirmation.
    async fn autodeploy(&self) -> bool {
        self.0.autodeploy
    }

    /// Whether failed runs are tried again.
    async fn autoretry(&self) -> bool {
        false
    }

    /// Whether its runs may manage this server.
    async fn administrative(&self) -> bool {
        false
    }

    /// The branch of its source, as whoever made the stack named it: sources are uploaded.
    async fn branch(&self) -> &str {
        &self.0.repository.branch
    }

    /// The repository of its source, in the same way.
    async fn repository(&self) -> &str {
        &self.0.repository.name
    }

    /// The owner of its repository, in the same way.
    async fn namespace(&self) -> &str {
        &self.0.repository.namespace
    }

    /// The host of its repository, in the same way.
    async fn provider(&self) -> Option<&str> {
        Some(self.0.repository.provider.as_str()).filter(|text| !text.is_empty())
    }

    /// The part of the source that it lives in.
    async fn project_root(&self) -> Option<&str> {
        Some(self.0.project_root.as_str())
    }

    /// The image that its runs use; null for the launcher's default.
    async fn runner_image(&self) -> Option<&str> {
        self.0.image.as_deref()
    }

    /// Whether its Terraform state is kept here.
    async fn manages_state_file(&self) -> bool {
        self.0.manage_state
    }

    /// Whether it is being deleted.
    async fn deleting(&self) -> bool {
        false
    }

    /// Whether it takes no runs.
    async fn is_disabled(&self) -> bool {
        false
    }

    /// Whether local changes can be proposed.
    async fn local_preview_enabled(&self) -> bool {
        false
    }

    /// Whether it cannot be deleted.
    async fn protect_from_deletion(&self) -> bool {
        false
    }

    /// The tool and its settings.
    async fn vendor_config(&self) -> StackConfigVendor {
        self.0.tool.clone().into()
    }

    /// Who locked it; null if nobody.
    async fn locked_by(&self) -> Option<&str> {
        self.0.lock.as_ref().map(|lock| lock.by.as_str())
    }

    /// When it was locked, in seconds since 1970.
    async fn locked_at(&self) -> Option<i64> {
        self.0.lock.as_ref().map(|lock| seconds(lock.at))
    }

    /// Why it was locked.
    async fn lock_note(&self) -> Option<&str> {
        self.0.lock.as_ref().map(|lock| lock.note.as_str())
    }

    /// Commands before initialize.
    async fn before_init(&self) -> &[String] {
        &self.0.hooks.before_init
    }

    /// Commands after initialize.
    async fn after_init(&self) -> &[String] {
        &self.0.hooks.after_init
    }

    /// Commands before plan.
    async fn before_plan(&self) -> &[String] {
        &self.0.hooks.before_plan
    }

    /// Commands after plan.
    async fn after_plan(&self) -> &[String] {
        &self.0.hooks.after_plan
    }

    /// Commands before apply.
    async fn before_apply(&self) -> &[String] {
        &self.0.hooks.before_apply
    }

    /// Commands after apply.
    async fn after_apply(&self) -> &[String] {
        &self.0.hooks.after_apply
    }

    /// Commands before perform.
    async fn before_perform(&self) -> &[String] {
        &self.0.hooks.before_perform
    }

    /// Commands after perform.
    async fn after_perform(&self) -> &[String] {
        &self.0.hooks.after_perform
    }

    /// Commands before destroy.
    async fn before_destroy(&self) -> &[String] {
        &self.0.hooks.before_destroy
    }

    /// Commands after destroy.
    async fn after_destroy(&self) -> &[String] {
        &self.0.hooks.after_destroy
    }

    /// Commands after every run.
    async fn after_run(&self) -> &[String] {
        &self.0.hooks.after_run
    }

    /// Gantry: its variables in the clear.
    async fn environment(&self) -> Vec<EnvVar> {
        let variables = self.0.environment.iter();
        variables.map(|it| EnvVar { key: it.name.clone(), value: it.value.clone() }).collect()
    }

    /// Gantry: the newest version of its source.
    async fn source(&self) -> Option<Source> {
        self.0.source.clone().map(Source::from)
    }

    /// Gantry: the version of its sealed secrets; 0 if it has none.
    async fn secrets_version(&self) -> i32 {
        count(self.0.secrets_version)
    }

    /// Gantry: the keys to which its secrets and states are sealed.
    async fn recipients(&self, ctx: &Context<'_>) -> Result<Vec<Recipient>> {
        let operations = ctx.data::<Operations>()?;
        let pems = operations.stacks.recipients_of(&self.0.id).await.map_err(refused)?;
        recipients(operations, pems).await
    }

    /// Gantry: the versions of its Terraform state, newest first, at most 1000.
    #[graphql(complexity = "1000 + 50 * child_complexity")]
    async fn state_versions(&self, ctx: &Context<'_>) -> Result<Vec<StateVersion>> {
        let versions =
            ctx.data::<Operations>()?.stacks.states_of(&self.0.id).await.map_err(refused)?;
        Ok(versions.into_iter().map(StateVersion).collect())
    }

    /// Gantry: a version of its Terraform state: with this id, orphaned or not; with this serial, not
    /// orphaned; the current one if neither is named.
    async fn state_version(
        &self,
        ctx: &Context<'_>,
        id: Option<ID>,
        serial: Option<Long>,
    ) -> Result<Option<StateVersion>> {
        let (operations, stack) = (ctx.data::<Operations>()?, &self.0.id);
        let serial = serial.map(|Long(serial)| serial);
        let version = match id {
            Some(id) => operations.stacks.state_version_named(stack, &id).await,
            None => operations.stacks.state_version(stack, serial).await,
        };
        Ok(found(version)?.map(StateVersion))
    }
}

impl Stack {
    async fn own_run(&self, ctx: &Context<'_>, id: &ID) -> Result<Option<Run>> {
        let Some(id) = ulid::<RunId>(id) else { return Ok(None) };
        let run = found(ctx.data::<Operations>()?.runs.run(id).await)?;
        Ok(run.filter(|run| run.stack == self.0.id).map(Run::from))
    }

    async fn page(
        &self,
        ctx: &Context<'_>,
        kind: RunsKind,
        before: Option<ID>,
    ) -> Result<Vec<Run>> {
        let before = before.filter(|before| !before.is_empty());
        let before = match before {
            None => None,
            Some(before) => match ulid::<RunId>(&before) {
                None => return Ok(vec![]),
                before => before,
            },
        };
        let page = RunsPage { kind, before, limit: PAGE };
        let runs =
            ctx.data::<Operations>()?.runs.runs_of(&self.0.id, page).await.map_err(refused)?;
        Run::list(ctx, runs).await
    }
}

/// Gantry: a variable in the clear.
#[derive(SimpleObject)]
pub(crate) struct EnvVar {
    /// Its name.
    key: String,
    /// Its value.
    value: String,
}

/// Gantry: a version of a stack's source: an archive, `tar` in `zstd`, sealed as an age file.
#[derive(SimpleObject)]
pub(crate) struct Source {
    /// Its id.
    id: ID,
    /// Lower-case hex of its SHA-256.
    sha256: String,
    /// Its length in bytes.
    size: Long,
    /// Who uploaded it.
    author: String,
    /// What they said about it.
    message: String,
    /// When it was uploaded, in seconds since 1970.
    created_at: i64,
}

impl From<StackSource> for Source {
    fn from(source: StackSource) -> Self {
        Self {
            id: source.id.into(),
            sha256: source.sha256,
            size: Long(source.size),
            author: source.author,
            message: source.message,
            created_at: seconds(source.created_at),
        }
    }
}

/// Gantry: a version of a stack's Terraform state. Only a pool's key or the recovery key opens it.
pub(crate) struct StateVersion(stacks::StateVersion);

impl From<stacks::StateVersion> for StateVersion {
    fn from(version: stacks::StateVersion) -> Self {
        Self(version)
    }
}

#[Object]
impl StateVersion {
    /// Its id.
    async fn id(&self) -> ID {
        self.0.id.clone().into()
    }

    /// Terraform's serial.
    async fn serial(&self) -> Long {
        Long(self.0.serial)
    }

    /// Terraform's lineage.
    async fn lineage(&self) -> &str {
        &self.0.lineage
    }

    /// The run that wrote it; of one that a person pushed, the push.
    async fn run(&self) -> ID {
        self.0.attempt.run.to_string().into()
    }

    /// The epoch in which it was written; 0 of one that a person pushed.
    async fn epoch(&self) -> Long {
        Long(self.0.attempt.epoch.0)
    }

    /// When it was stored, in seconds since 1970.
    async fn created_at(&self) -> i64 {
        seconds(self.0.created_at)
    }

    /// The payload's length in bytes.
    async fn size(&self) -> Long {
        Long(self.0.payload_size)
    }

    /// Lower-case hex of the payload's SHA-256.
    async fn payload_sha256(&self) -> &str {
        &self.0.payload_sha256
    }

    /// The payload hash of the version before.
    async fn predecessor(&self) -> Option<&str> {
        self.0.predecessor.as_deref()
    }

    /// The pool key's signature over its statement, base64.
    async fn signature(&self) -> &str {
        &self.0.signature
    }

    /// The age header, base64. Header and payload one after the other are an age file.
    async fn header(&self) -> &str {
        &self.0.header
    }

    /// Whether the next run begins with it.
    async fn current(&self) -> bool {
        self.0.is_current
    }

    /// Who pushed it, if it is no run's.
    async fn pushed_by(&self) -> Option<&str> {
        self.0.pushed_by.as_deref()
    }

    /// Why it is not part of the stack's history, if it is not.
    async fn orphaned(&self) -> Option<&str> {
        self.0.orphaned.as_deref()
    }

    /// An url for the payload, which can be used for 10 minutes.
    async fn download_url(&self, ctx: &Context<'_>) -> Result<String> {
        let stacks = &ctx.data::<Operations>()?.stacks;
        stacks.state_url(&self.0, URL_TTL).await.map_err(refused)
    }
}

//! What a launcher gets to run a stage: the sealed spec, and urls to put things at.

use crate::core::Core;
use crate::objects::Objects;
use crate::pools::Pools;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, Phase, RunState, StackId, Stage};
use gantry_protocol::message::{Carried, PutUrl, UrlPurpose};
use gantry_protocol::spec::{
    About, Commit, PhaseSpec, SealedState, SealedWorkspace, Source, Spec, StateSpec,
};
use gantry_protocol::{Digest, seal_bytes};

use crate::clock::millis;
use crate::error::OperationError;
use crate::sources::{StackSource, read_source};
use crate::stacks::{Stack, read_any_stack};
use crate::store::states::current_state;
use crate::store::workspaces::newest_workspace;
use crate::store::{Connection, RunRow, load_run};

/// For how long urls to get things hold. The launcher fetches them at the start of a stage.
const GET_TTL: Duration = Duration::from_hours(6);
/// For how long urls to put things hold. More are asked for.
const PUT_TTL: Duration = Duration::from_hours(2);
/// What a sealed spec may have to go inside of an offer, whose limit is 64 KiB in base64.
const MAX_INLINE: usize = 40 * 1024;
/// How many urls for segments of the log come with a grant.
const FIRST_LOG_URLS: u32 = 4;
/// How many urls for state versions come with a grant.
const FIRST_STATE_URLS: u32 = 2;

/// The prefix of all keys at which an attempt may have stored something.
pub(crate) fn key_prefix(purpose: UrlPurpose, attempt: Attempt, stack: &StackId) -> String {
    let Attempt { run, epoch, .. } = attempt;
    match purpose {
        UrlPurpose::Log => format!("log/{run}/{epoch}/"),
        UrlPurpose::Workspace => format!("workspace/{run}/{epoch}/"),
        UrlPurpose::State => format!("state/{stack}/{epoch}-"),
    }
}

/// Makes specs, and URLs to put things at. Clones are the same.
#[derive(Clone)]
pub struct Specs {
    core: Core,
    objects: Arc<dyn Objects>,
    pools: Pools,
}

impl Deref for Specs {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Specs {
    pub(crate) fn new(core: Core, objects: Arc<dyn Objects>, pools: Pools) -> Self {
        Self { core, objects, pools }
    }

    /// The spec of the attempt that an offer of this run would make, sealed to its pool.
    pub(crate) async fn sealed_spec(
        &self,
        row: &RunRow,
        attempt: Attempt,
        state: RunState,
    ) -> Result<Carried, OperationError> {
        let spec = self.spec(row, attempt, state).await?;
        let identity = self.pools.identity(row.pool);
        let identity = identity.ok_or_else(|| OperationError::not_found("pool", row.pool))?;
        let plain = zeroize::Zeroizing::new(
            serde_json::to_vec(&spec)
                .map_err(|error| OperationError::Conflict(error.to_string()))?,
        );
        let recipient = std::slice::from_ref(&identity.recipient);
        let sealed = seal_bytes(recipient, &plain)
            .map_err(|error| OperationError::Conflict(error.to_string()))?
            .to_file();
        if sealed.len() <= MAX_INLINE {
            return Ok(Carried::Inline(STANDARD.encode(sealed)));
        }
        let ulid = self.ids().ulid(self.now());
        let key = format!("spec/{}/{}/{ulid}", attempt.run, attempt.epoch);
        let (sha256, size) = (Digest::of(&sealed).to_string(), sealed.len() as u64);
        self.objects.put(&key, sealed.into()).await?;
        let url = self.objects.presign_get(&key, GET_TTL).await?;
        Ok(Carried::Object { url, sha256, size })
    }

    async fn spec(
        &self,
        row: &RunRow,
        attempt: Attempt,
        state: RunState,
    ) -> Result<Spec, OperationError> {
        let mut conn = self.store().read().await?;
        let (stack, secrets) = read_any_stack(&mut conn, &row.stack).await?;
        let source = read_source(&mut conn, &row.source).await?;
        let state_spec = self.state_spec(&mut conn, &stack, attempt.stage).await?;
        let workspace = match attempt.stage {
            Stage::Read => None,
            Stage::Write => self.workspace(&mut conn, attempt).await?,
        };
        let needs_source = workspace.is_none();
        let about = about(row, &stack, state, &source);
        let source = Source {
            url: self.objects.presign_get(&source.key, GET_TTL).await?,
            sha256: source.sha256,
            size: source.size,
        };
        let (phases, later) = phases(row, &stack, attempt.stage);
        Ok(Spec {
            attempt,
            stack: row.stack.clone(),
            run_type: row.lifecycle.run_type(),
            image: stack.image.clone(),
            tool: stack.tool.spec(),
            phases,
            later,
            after_run: stack.hooks.after_run.clone(),
            environment: stack.environment.clone(),
            secrets,
            source: needs_source.then_some(source),
            project_root: stack.project_root.clone(),
            workspace,
            state: state_spec,
            autodeploy: row.lifecycle.is_autodeployed(),
            about,
        })
    }

    async fn state_spec(
        &self,
        conn: &mut Connection,
        stack: &Stack,
        stage: Stage,
    ) -> Result<Option<StateSpec>, OperationError> {
        if !stack.manage_state {
            return Ok(None);
        }
        let current = match current_state(conn, &stack.id).await? {
            None => None,
            Some(state) => Some(SealedState {
                url: self.objects.presign_get(&state.key, GET_TTL).await?,
                header: state.header,
                run: state.attempt.run,
                epoch: state.attempt.epoch.0,
                serial: state.serial,
                payload_sha256: state.payload_sha256,
                payload_size: state.payload_size,
                predecessor: state.predecessor,
                signature: state.signature,
            }),
        };
        let recipients = self.pools.recipients(conn, stack.pool).await?;
        Ok(Some(StateSpec { current, recipients, can_write: stage == Stage::Write }))
    }

    async fn workspace(
        &self,
        conn: &mut Connection,
        attempt: Attempt,
    ) -> Result<Option<SealedWorkspace>, OperationError> {
        let Some(stored) = newest_workspace(conn, attempt.run).await? else { return Ok(None) };
        Ok(Some(SealedWorkspace {
            url: self.objects.presign_get(&stored.key, GET_TTL).await?,
            size: stored.size,
            epoch: stored.epoch,
            payload_sha256: stored.payload_sha256,
            payload_size: stored.payload_size,
            signature: stored.signature,
        }))
    }

    /// The urls that come with a grant.
    pub(crate) async fn first_urls(&self, attempt: Attempt) -> Result<Vec<PutUrl>, OperationError> {
        let mut urls = self.put_urls(attempt, UrlPurpose::Log, FIRST_LOG_URLS).await?;
        urls.extend(self.put_urls(attempt, UrlPurpose::Workspace, 1).await?);
        urls.extend(self.put_urls(attempt, UrlPurpose::State, FIRST_STATE_URLS).await?);
        Ok(urls)
    }

    /// Urls at which an attempt can put things of one kind; none if it has no such things.
    pub(crate) async fn put_urls(
        &self,
        attempt: Attempt,
        purpose: UrlPurpose,
        count: u32,
    ) -> Result<Vec<PutUrl>, OperationError> {
        let row = {
            let mut conn = self.store().read().await?;
            let row = load_run(&mut conn, attempt.run).await?;
            row.ok_or_else(|| OperationError::not_found("run", attempt.run))?
        };
        let has_any = match purpose {
            UrlPurpose::Log => true,
            UrlPurpose::Workspace => row.lifecycle.run_type().stage_after(attempt.stage).is_some(),
            // Whether the stack's state is ours may have changed since the stage was granted.
            UrlPurpose::State => attempt.stage == Stage::Write,
        };
        let mut urls = Vec::new();
        let prefix = key_prefix(purpose, attempt, &row.stack);
        for _ in 0..if has_any { count } else { 0 } {
            let key = format!("{prefix}{}", self.ids().ulid(self.now()));
            let url = self.objects.presign_put(&key, PUT_TTL).await?;
            urls.push(PutUrl { purpose, key, url, valid_ms: millis(PUT_TTL) });
        }
        Ok(urls)
    }
}

/// The phases of a stage, and those of the stage that may follow.
fn phases(row: &RunRow, stack: &Stack, stage: Stage) -> (Vec<PhaseSpec>, Vec<PhaseSpec>) {
    let spec = |phase: &Phase| {
        let (before, after) = stack.hooks.around(*phase);
        let command = match phase {
            Phase::Perform => row.command.clone(),
            Phase::Initialize | Phase::Plan | Phase::Apply | Phase::Destroy => {
                stack.tool.command(*phase).cloned()
            }
        };
        PhaseSpec { phase: *phase, before: before.to_vec(), command, after: after.to_vec() }
    };
    let run_type = row.lifecycle.run_type();
    (
        run_type.phases(stage).iter().map(spec).collect(),
        run_type.phases_after(stage).iter().map(spec).collect(),
    )
}

fn about(row: &RunRow, stack: &Stack, state: RunState, source: &StackSource) -> About {
    About {
        state,
        created_ms: row.created_at.0,
        updated_ms: row.updated_at.0,
        triggered_by: Some(row.triggered_by.clone()),
        user_provided_metadata: row.metadata.clone(),
        commit: Commit {
            hash: source.sha256.clone(),
            author: source.author.clone(),
            branch: String::new(),
            message: source.message.clone(),
            created_ms: source.created_at.0,
        },
        labels: stack.labels.clone(),
        stack_name: stack.name.clone(),
    }
}

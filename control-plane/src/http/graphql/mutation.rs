//! What can be changed. Every change is in the audit, under the API key that asked for it.

mod keys;
mod pools;
mod stacks;
mod states;

use std::sync::Arc;

use async_graphql::{Context, Error, ID, MergedObject, Object, Result, SimpleObject};
use gantry_model::{PoolId, RunId, RunType as Model, StackId};
use gantry_protocol::spec::{SealedBundle, Variable};

use self::keys::KeyChanges;
use self::pools::PoolChanges;
use self::stacks::StackChanges;
use self::states::StateChanges;
use super::Metadata;
use super::error::{invalid, not_found, refused, too_many_logins};
use super::types::input::{
    EnvVarInput, RuntimeConfigInput, SealedSecretsInput, StackInput, is_given,
};
use super::types::pool::{RecoveryKey, WorkerPool};
use super::types::run::Run;
use super::types::stack::{Source, Stack};
use super::types::word::{ForceApplyMode, RunType};
use super::types::{Long, ulid};
use crate::http::Operations;
use crate::keys as api_keys;
use crate::keys::session::{From, Login, Sessions, Viewer};
use crate::pools::NewPool;
use crate::runs::{self, NewRun};
use crate::sources::NewSource;
use crate::stacks::{NewStack, Tool};

/// The longest note.
const MAX_NOTE: usize = 500;

/// The root of all mutations.
#[derive(Default, MergedObject)]
pub(crate) struct Mutation(First, PoolChanges, StackChanges, StateChanges, KeyChanges);

/// What makes things, and what happens to runs.
#[derive(Default)]
pub(crate) struct First;

#[Object]
impl First {
    /// Opens a session for an API key. The only thing that needs none; null if id or secret are wrong.
    #[graphql(complexity = "1000 + child_complexity")]
    async fn api_key_user(
        &self,
        ctx: &Context<'_>,
        id: ID,
        secret: String,
    ) -> Result<Option<UserSession>> {
        let secret = zeroize::Zeroizing::new(secret);
        let from = *ctx.data::<From>()?;
        let login = ctx.data::<Arc<Sessions>>()?.open(&id, &secret, from).await;
        match login.map_err(refused)? {
            Login::Opened(session) => {
                api_keys::note_use(&operations(ctx)?.core, &id).await.map_err(refused)?;
                Ok(Some(UserSession {
                    jwt: session.jwt,
                    valid_until: i64::try_from(session.valid_until).unwrap_or(i64::MAX),
                }))
            }
            Login::Wrong => Ok(None),
            Login::TooMany { wait } => Err(too_many_logins(wait)),
        }
    }

    /// Makes a pool for whoever holds the key of this certificate signing request.
    #[expect(clippy::too_many_arguments, reason = "the public API has them")]
    async fn worker_pool_create(
        &self,
        ctx: &Context<'_>,
        name: String,
        #[graphql(desc = "PEM or its base64.")] certificate_signing_request: String,
        description: Option<String>,
        labels: Option<Vec<String>>,
        space: Option<ID>,
        drift_detection_run_limit: Option<i32>,
    ) -> Result<WorkerPool> {
        check_pool(space.as_ref(), drift_detection_run_limit)?;
        let new = NewPool {
            name,
            description: description.unwrap_or_default(),
            labels: labels.unwrap_or_default(),
            csr: certificate_signing_request,
        };
        let (pool, _token) =
            operations(ctx)?.pools.create_pool(&actor(ctx)?, new).await.map_err(refused)?;
        Ok(pool.into())
    }

    /// Makes a stack.
    #[expect(clippy::too_many_arguments, reason = "the public API has them")]
    async fn stack_create(
        &self,
        ctx: &Context<'_>,
        mut input: StackInput,
        #[graphql(desc = "Whether its Terraform state is kept here.")] manage_state: bool,
        #[graphql(desc = "Its id; made from the name unless given.")] slug: Option<String>,
        #[graphql(name = "stackObjectID", desc = "Not done here.")] stack_object_id: Option<String>,
        #[graphql(desc = "Gantry: variables in the clear.")] environment: Option<Vec<EnvVarInput>>,
        #[graphql(desc = "Gantry: secrets, sealed to the pool's recipients.")] secrets: Option<
            SealedSecretsInput,
        >,
    ) -> Result<Stack> {
        input.check()?;
        if is_given(stack_object_id.as_ref()) {
            return Err(invalid("this version does not import states: leave stackObjectID out"));
        }
        let pool =
            input.worker_pool.take().filter(|pool| !pool.is_empty()).ok_or_else(|| {
                invalid("worker_pool_id is required: there is no public worker pool")
            })?;
        let id = slug.filter(|slug| !slug.is_empty()).unwrap_or_else(|| slug_of(&input.name));
        let new = NewStack {
            id: id.parse().map_err(|error: gantry_model::InvalidId| invalid(error.to_string()))?,
            tool: match input.vendor_config.take() {
                Some(config) => config.tool()?.unwrap_or_default(),
                None => Tool::default(),
            },
            hooks: input.hooks(),
            repository: input.repository(),
            description: input.description.unwrap_or_default(),
            name: input.name,
            pool: pool_id(&pool)?,
            project_root: input.project_root.unwrap_or_default(),
            image: input.runner_image.filter(|image| !image.is_empty()),
            environment: environment.unwrap_or_default().into_iter().map(variable).collect(),
            secrets: secrets.map(|secrets| bundle(1, secrets)),
            labels: input.labels.unwrap_or_default(),
            autodeploy: input.autodeploy,
            manage_state,
        };
        let stack =
            operations(ctx)?.stacks.create_stack(&actor(ctx)?, new).await.map_err(refused)?;
        Ok(stack.into())
    }

    /// Starts a run of the stack's newest source.
    async fn run_trigger(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        #[graphql(desc = "Not done here: sources are uploaded.")] commit_sha: Option<String>,
        #[graphql(desc = "TRACKED unless given.")] run_type: Option<RunType>,
        #[graphql(desc = "Not done here.")] runtime_config: Option<RuntimeConfigInput>,
        #[graphql(desc = "Not done here.")] force_apply: Option<ForceApplyMode>,
    ) -> Result<Run> {
        if is_given(commit_sha.as_ref()) {
            return Err(invalid("this version does not check out commits: upload a source"));
        }
        if runtime_config.is_some_and(|config| !config.is_empty()) || force_apply.is_some() {
            return Err(invalid(
                "this version does not do settings of one run: set them on the stack",
            ));
        }
        let run_type = match run_type {
            None | Some(RunType::Tracked) => Model::Tracked,
            Some(RunType::Proposed) => Model::Proposed,
            Some(RunType::Destroy | RunType::Task | RunType::Testing | RunType::Parse) => {
                return Err(invalid(
                    "this version starts TRACKED and PROPOSED runs only: give one of these",
                ));
            }
        };
        let metadata = metadata(ctx)?.into_iter().collect();
        let new = NewRun { stack: stack_id(&stack)?, run_type, command: None, metadata };
        Ok(operations(ctx)?.runs.trigger(&actor(ctx)?, new).await.map_err(refused)?.into())
    }

    /// Starts a run of one command in the stack's newest source: what changes the state belongs here.
    async fn task_create(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        #[graphql(desc = "What the shell runs, after init.")] command: String,
        #[graphql(desc = "Not done here: a task initializes.")] skip_initialization: Option<bool>,
    ) -> Result<Run> {
        if skip_initialization == Some(true) {
            return Err(invalid("this version initializes before each task"));
        }
        let metadata = metadata(ctx)?.into_iter().collect();
        let (stack, run_type) = (stack_id(&stack)?, Model::Task);
        let new = NewRun { stack, run_type, command: Some(command), metadata };
        Ok(operations(ctx)?.runs.trigger(&actor(ctx)?, new).await.map_err(refused)?.into())
    }

    /// Lets a run carry out its plan.
    async fn run_confirm(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        run: ID,
        note: Option<String>,
    ) -> Result<Run> {
        let (run, note) = (run_of(ctx, &stack, &run).await?.id, checked(note)?);
        let confirmed = operations(ctx)?.runs.confirm(&actor(ctx)?, run, note.as_deref()).await;
        Ok(confirmed.map_err(refused)?.into())
    }

    /// Turns a run's plan down, or drops a run that waits.
    async fn run_discard(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        run: ID,
        note: Option<String>,
    ) -> Result<Run> {
        let (run, note) = (run_of(ctx, &stack, &run).await?.id, checked(note)?);
        let discarded = operations(ctx)?.runs.discard(&actor(ctx)?, run, note.as_deref()).await;
        Ok(discarded.map_err(refused)?.into())
    }

    /// Stops a run: its tool is interrupted once and given time to leave.
    async fn run_stop(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        run: ID,
        note: Option<String>,
    ) -> Result<Run> {
        let run = run_of(ctx, &stack, &run).await?.id;
        let note = checked(note)?;
        let stopped = operations(ctx)?.runs.stop(&actor(ctx)?, run, note.as_deref()).await;
        Ok(stopped.map_err(refused)?.into())
    }

    /// Starts a run like one that did not end well, with the same source.
    async fn run_retry(&self, ctx: &Context<'_>, stack: ID, run: ID) -> Result<Run> {
        let run = run_of(ctx, &stack, &run).await?.id;
        Ok(operations(ctx)?.runs.retry(&actor(ctx)?, run).await.map_err(refused)?.into())
    }

    /// Ends a run that no worker has yet; one that a worker has can be stopped.
    async fn run_cancel(&self, ctx: &Context<'_>, stack: ID, run: ID) -> Result<Run> {
        let run = run_of(ctx, &stack, &run).await?.id;
        Ok(operations(ctx)?.runs.cancel(&actor(ctx)?, run).await.map_err(refused)?.into())
    }

    /// Gantry: sets the recovery key, once.
    async fn recovery_key_set(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "PEM.")] public_key: String,
    ) -> Result<RecoveryKey> {
        let set = operations(ctx)?.pools.set_recovery_key(&actor(ctx)?, &public_key).await;
        set.map_err(refused)?;
        RecoveryKey::new(public_key)
    }

    /// Gantry: where to put a new version of a stack's source, which `sourceUse` then makes the newest.
    async fn source_upload(&self, ctx: &Context<'_>, stack: ID) -> Result<SourceUpload> {
        let upload =
            operations(ctx)?.stacks.source_upload(&stack_id(&stack)?).await.map_err(refused)?;
        Ok(SourceUpload {
            id: upload.key.into(),
            upload_url: upload.url,
            upload_headers: UploadHeaders::once(),
        })
    }

    /// Gantry: makes an uploaded source the newest version, sealed if it is not yet.
    async fn source_use(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        #[graphql(desc = "As sourceUpload named it.")] id: ID,
        #[graphql(desc = "Lower-case hex of the SHA-256 of what was uploaded.")] sha256: String,
        #[graphql(desc = "Its length in bytes.")] size: Long,
        #[graphql(desc = "What changed.")] message: Option<String>,
    ) -> Result<Source> {
        let viewer = ctx.data::<Viewer>()?;
        let new = NewSource {
            key: id.to_string(),
            sha256,
            size: size.0,
            author: viewer.name.clone(),
            message: checked(message)?.unwrap_or_default(),
        };
        let set = operations(ctx)?.stacks.set_source(&actor(ctx)?, &stack_id(&stack)?, new).await;
        set.map_err(refused)?.source.map(Source::from).ok_or_else(|| not_found("source", &id))
    }
}

/// A session.
#[derive(SimpleObject)]
struct UserSession {
    /// The token that goes with every request, as `Authorization: Bearer`.
    jwt: String,
    /// When it ends, in seconds since 1970.
    valid_until: i64,
}

/// Gantry: where to put a source.
#[derive(SimpleObject)]
struct SourceUpload {
    /// Names it for `sourceUse`.
    id: ID,
    /// A pre-signed url for one PUT.
    upload_url: String,
    /// The headers that the PUT must have.
    upload_headers: UploadHeaders,
}

/// Headers.
#[derive(SimpleObject)]
struct UploadHeaders {
    /// One by one.
    entries: Vec<UploadHeader>,
}

impl UploadHeaders {
    /// The PUT makes the object, or is refused.
    fn once() -> Self {
        let only_once = UploadHeader { key: "If-None-Match".into(), value: "*".into() };
        Self { entries: vec![only_once] }
    }
}

/// A header.
#[derive(SimpleObject)]
struct UploadHeader {
    /// Its name.
    key: String,
    /// Its value.
    value: String,
}

/// Refuses what this version does not do with pools.
fn check_pool(space: Option<&ID>, drift_detection_run_limit: Option<i32>) -> Result<()> {
    if space.is_some_and(|space| !space.is_empty() && space.as_str() != "root") {
        return Err(invalid(
            "this version does not do spaces other than root: leave the space out",
        ));
    }
    if drift_detection_run_limit.is_some_and(|limit| limit != -1) {
        return Err(invalid(
            "this version does not do limits of drift detection: -1 stands for none",
        ));
    }
    Ok(())
}

fn operations<'a>(ctx: &Context<'a>) -> Result<&'a Operations> {
    ctx.data::<Operations>()
}

fn actor(ctx: &Context<'_>) -> Result<String> {
    Ok(ctx.data::<Viewer>()?.actor())
}

fn metadata(ctx: &Context<'_>) -> Result<Option<String>> {
    Ok(ctx.data::<Metadata>()?.0.clone())
}

fn pool_id(id: &ID) -> Result<PoolId> {
    ulid(id).ok_or_else(|| not_found("worker pool", id))
}

fn stack_id(id: &ID) -> Result<StackId> {
    id.parse().map_err(|_| not_found("stack", id))
}

/// The run, if it is one of the stack.
async fn run_of(ctx: &Context<'_>, stack: &ID, run: &ID) -> Result<runs::Run> {
    let id: RunId = ulid(run).ok_or_else(|| not_found("run", run))?;
    let found = operations(ctx)?.runs.run(id).await.map_err(refused)?;
    if found.stack.as_str() == stack.as_str() { Ok(found) } else { Err(not_found("run", run)) }
}

fn checked(note: Option<String>) -> Result<Option<String>, Error> {
    if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE) {
        return Err(invalid(format!("the text is longer than {MAX_NOTE} bytes: shorten it")));
    }
    Ok(note)
}

fn variable(input: EnvVarInput) -> Variable {
    Variable { name: input.key, value: input.value }
}

fn bundle(version: u64, input: SealedSecretsInput) -> SealedBundle {
    SealedBundle { version, header: input.header, payload: input.payload }
}

/// A name as an id: what may not be in one becomes a `-`.
fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(63);
    slug.trim_end_matches('-').to_owned()
}

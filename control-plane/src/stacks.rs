//! Stacks: what is planned and applied, with which source, variables, secrets and state.

mod change;
mod lock;
mod push;
mod secrets;
mod states;
mod tool;

use crate::core::Core;
use crate::objects::Objects;
use crate::pools::Pools;
use gantry_model::{PoolId, RunState, StackId, Timestamp};
use gantry_protocol::spec::{SealedBundle, Variable};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub use self::change::{HooksChange, StackChange};
pub use self::push::{PushedState, StateUpload};
pub use crate::store::stacks::{Commands, Hooks, Repository, Stack, Tool};
pub use crate::store::states::StateVersion;
pub use gantry_model::StackLock;

use self::secrets::check_secrets;
use crate::check;
use crate::error::OperationError;
use crate::pools::check_there;
use crate::runs::Run;
use crate::store::stacks::{count_by_state, find_stack, find_stacks, insert_stack, list_stacks};
use crate::store::{Connection, to_json};

/// The most stacks of one list.
const MAX_STACKS: i64 = 10_000;

/// The longest name of a repository, its owner or its branch, in characters.
const MAX_REPOSITORY: usize = 255;
/// The most bytes of a stack's hooks or of its variables, as JSON.
const MAX_SETTINGS: usize = 256 * 1024;
/// The most variables in the clear.
const MAX_VARIABLES: usize = 500;

/// A stack that someone wants.
#[derive(Debug, Clone)]
pub struct NewStack {
    /// Its slug.
    pub id: StackId,
    /// Its name, 1 to 100 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where its source comes from.
    pub repository: Repository,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The part of the source that it lives in, relative; empty for all of it.
    pub project_root: String,
    /// The image; the launcher's default if none.
    pub image: Option<String>,
    /// What its phases run.
    pub tool: Tool,
    /// Commands around the phases.
    pub hooks: Hooks,
    /// Variables in the clear.
    pub environment: Vec<Variable>,
    /// Its secrets, sealed to [`Stacks::recipients_of_pool`].
    pub secrets: Option<SealedBundle>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// Whether we keep its Terraform state.
    pub manage_state: bool,
}

/// Stacks, with their sources, secrets and states. Clones are the same.
#[derive(Clone)]
pub struct Stacks {
    core: Core,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) pools: Pools,
    pub(crate) sealing: Arc<Semaphore>,
}

impl Deref for Stacks {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Stacks {
    pub(crate) fn new(
        core: Core,
        objects: Arc<dyn Objects>,
        pools: Pools,
        sealing: Arc<Semaphore>,
    ) -> Self {
        Self { core, objects, pools, sealing }
    }

    /// Creates a stack.
    ///
    /// # Errors
    /// When the slug is taken, there is no such pool, or something given is not acceptable.
    pub async fn create_stack(&self, actor: &str, new: NewStack) -> Result<Stack, OperationError> {
        let (mut stack, secrets) = first(new, self.now());
        check_settings(&stack)?;
        check_first(secrets.as_ref())?;
        let root = check::project_root(&stack.project_root)?;
        root.as_str().clone_into(&mut stack.project_root);
        let mut unit = self.begin().await?;
        check_there(&mut unit, stack.pool).await?;
        if let Some(taken) = find_stack(unit.conn(), &stack.id).await? {
            let is = if taken.is_deleted { "was" } else { "is" };
            return Err(OperationError::Conflict(format!(
                "there {is} a stack {} already: choose another id",
                stack.id
            )));
        }
        insert_stack(unit.conn(), &stack, secrets.as_ref()).await?;
        unit.audit(actor, "stack.create", &format!("stack {}", stack.id), &stack.name).await?;
        unit.commit().await?;
        self.stack(&stack.id).await
    }

    /// The stack with this slug.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stack(&self, stack: &StackId) -> Result<Stack, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(read_stack_with_secrets(&mut conn, stack).await?.0)
    }

    /// The stack of a run, deleted or not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stack_of_run(&self, run: &Run) -> Result<Stack, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(read_any_stack(&mut conn, &run.stack).await?.0)
    }

    /// The stacks of some runs, deleted or not, in one look.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stacks_of_runs(&self, runs: &[Run]) -> Result<Vec<Stack>, OperationError> {
        let stacks: BTreeSet<&StackId> = runs.iter().map(|run| &run.stack).collect();
        let stacks: Vec<StackId> = stacks.into_iter().cloned().collect();
        let mut conn = self.store().read().await?;
        Ok(find_stacks(&mut conn, &stacks).await?)
    }

    /// All stacks, by slug.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stacks(&self) -> Result<Vec<Stack>, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(list_stacks(&mut conn, MAX_STACKS).await?)
    }

    /// How many stacks have a newest run that may change something in each state; none stands for those that
    /// had no such run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_stacks(&self) -> Result<Vec<(Option<RunState>, u32)>, OperationError> {
        let mut conn = self.store().read().await?;
        let counts = count_by_state(&mut conn).await?;
        let count = |stacks| u32::try_from(stacks).unwrap_or(u32::MAX);
        Ok(counts.into_iter().map(|(state, stacks)| (state, count(stacks))).collect())
    }
}

/// The stack as it is made, and its secrets.
fn first(new: NewStack, now: Timestamp) -> (Stack, Option<SealedBundle>) {
    let stack = Stack {
        id: new.id,
        name: new.name,
        description: new.description,
        repository: new.repository,
        pool: new.pool,
        project_root: new.project_root,
        image: new.image,
        tool: new.tool,
        hooks: new.hooks,
        environment: new.environment,
        secrets_version: new.secrets.as_ref().map_or(0, |secrets| secrets.version),
        labels: new.labels,
        autodeploy: new.autodeploy,
        manage_state: new.manage_state,
        lock: None,
        source: None,
        state: None,
        created_at: now,
        updated_at: now,
    };
    (stack, new.secrets)
}

fn check_first(secrets: Option<&SealedBundle>) -> Result<(), OperationError> {
    match secrets {
        Some(secrets) if secrets.version != 1 => {
            Err(OperationError::invalid("secrets", "the first version of them is 1"))
        }
        Some(secrets) => check_secrets(secrets),
        None => Ok(()),
    }
}

/// What people can set about a stack.
fn check_settings(stack: &Stack) -> Result<(), OperationError> {
    check::name("name", &stack.name)?;
    check::text("description", &stack.description, 0, check::MAX_NOTE)?;
    let Repository { provider, namespace, name, branch } = &stack.repository;
    for (what, text) in
        [("provider", provider), ("namespace", namespace), ("repository", name), ("branch", branch)]
    {
        check::text(what, text, 0, MAX_REPOSITORY)?;
    }
    check::labels(&stack.labels)?;
    check::project_root(&stack.project_root)?;
    if let Some(image) = &stack.image {
        check::image(image)?;
    }
    stack.tool.check()?;
    if stack.manage_state && !stack.tool.has_state() {
        let problem = "a custom tool has no state that could be kept here: give false";
        return Err(OperationError::invalid("manageState", problem));
    }
    if to_json(&stack.hooks).len() > MAX_SETTINGS {
        return Err(OperationError::invalid(
            "hooks",
            "they are longer than 256 KiB together: put long scripts into the source",
        ));
    }
    if to_json(&stack.environment).len() > MAX_SETTINGS {
        return Err(OperationError::invalid(
            "environment",
            "it is longer than 256 KiB: put large values into files of the source",
        ));
    }
    stack.environment.iter().try_for_each(check::variable)
}

/// A stack that was not deleted, and its secrets as they are sealed.
pub(crate) async fn read_stack_with_secrets(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<(Stack, Option<SealedBundle>), OperationError> {
    let found = find_stack(conn, stack).await?.filter(|found| !found.is_deleted);
    let found = found.ok_or_else(|| OperationError::not_found("stack", stack))?;
    Ok((found.stack, found.secrets))
}

/// A stack, deleted or not: its runs are still to be seen, and late reports about them taken in.
pub(crate) async fn read_any_stack(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<(Stack, Option<SealedBundle>), OperationError> {
    let found = find_stack(conn, stack).await?;
    let found = found.ok_or_else(|| OperationError::not_found("stack", stack))?;
    Ok((found.stack, found.secrets))
}

//! What changes about stacks.

use async_graphql::{Context, ID, Object, Result};

use super::{actor, bundle, checked, operations, pool_id, stack_id, variable};
use crate::http::graphql::error::{invalid, refused};
use crate::http::graphql::types::input::{SealedSecretsInput, StackChangeInput, StackInput};
use crate::http::graphql::types::stack::Stack;
use crate::http::graphql::types::tool::VendorConfigInput;
use crate::stacks::StackChange;

/// Changes of stacks.
#[derive(Default)]
pub(crate) struct StackChanges;

#[Object]
impl StackChanges {
    /// Makes a stack what the input says. Variables, secrets and sources stay.
    async fn stack_update(
        &self,
        ctx: &Context<'_>,
        id: ID,
        mut input: StackInput,
    ) -> Result<Option<Stack>> {
        input.check()?;
        let pool = input.worker_pool.take().filter(|pool| !pool.is_empty());
        let pool = pool
            .ok_or_else(|| invalid("worker_pool_id is required: there is no public worker pool"))?;
        let tool = input.vendor_config.take().map(VendorConfigInput::tool).transpose()?.flatten();
        let change = StackChange {
            tool,
            hooks: input.hooks().into(),
            repository: Some(input.repository()),
            description: Some(input.description.unwrap_or_default()),
            name: Some(input.name),
            pool: Some(pool_id(&pool)?),
            project_root: Some(input.project_root.unwrap_or_default()),
            image: Some(input.runner_image.unwrap_or_default()),
            labels: Some(input.labels.unwrap_or_default()),
            autodeploy: Some(input.autodeploy),
            ..StackChange::default()
        };
        let changed =
            operations(ctx)?.stacks.change_stack(&actor(ctx)?, &stack_id(&id)?, change).await;
        Ok(Some(changed.map_err(refused)?.into()))
    }

    /// Gantry: changes what is given and leaves the rest.
    async fn stack_set(
        &self,
        ctx: &Context<'_>,
        id: ID,
        mut change: StackChangeInput,
    ) -> Result<Stack> {
        let pool = change.worker_pool.take().map(|pool| pool_id(&pool)).transpose()?;
        let set = change.set_environment.take().unwrap_or_default();
        let tool = change.vendor_config.take().map(VendorConfigInput::tool).transpose()?.flatten();
        let change = StackChange {
            tool,
            hooks: change.hooks(),
            repository: None,
            description: change.description,
            name: change.name,
            pool,
            project_root: change.project_root,
            image: change.runner_image,
            set_environment: set.into_iter().map(variable).collect(),
            unset_environment: change.unset_environment.unwrap_or_default(),
            // Its version is the next one, whatever that is then.
            secrets: change.secrets.map(|secrets| bundle(0, secrets)),
            clear_secrets: change.clear_secrets.unwrap_or_default(),
            labels: change.labels,
            autodeploy: change.autodeploy,
            manage_state: change.manage_state,
        };
        let changed =
            operations(ctx)?.stacks.change_stack(&actor(ctx)?, &stack_id(&id)?, change).await;
        Ok(changed.map_err(refused)?.into())
    }

    /// Ends a stack without touching what it made. Its id stays taken.
    async fn stack_delete(
        &self,
        ctx: &Context<'_>,
        id: ID,
        #[graphql(desc = "Not done here: start a run that destroys first.")]
        destroy_resources: Option<bool>,
    ) -> Result<Option<Stack>> {
        if destroy_resources == Some(true) {
            return Err(invalid(
                "this version does not destroy what a stack made: remove it with a run first",
            ));
        }
        let deleted = operations(ctx)?.stacks.delete_stack(&actor(ctx)?, &stack_id(&id)?).await;
        Ok(Some(deleted.map_err(refused)?.into()))
    }

    /// Keeps runs that may change something from beginning.
    async fn stack_lock(&self, ctx: &Context<'_>, id: ID, note: Option<String>) -> Result<Stack> {
        let (stack, note) = (stack_id(&id)?, checked(note)?.unwrap_or_default());
        let locked = operations(ctx)?.stacks.lock_stack(&actor(ctx)?, &stack, &note).await;
        Ok(locked.map_err(refused)?.into())
    }

    /// Lifts the lock.
    async fn stack_unlock(&self, ctx: &Context<'_>, id: ID) -> Result<Stack> {
        let unlocked = operations(ctx)?.stacks.unlock_stack(&actor(ctx)?, &stack_id(&id)?).await;
        Ok(unlocked.map_err(refused)?.into())
    }

    /// Gantry: replaces a stack's secrets by those that were sealed to its recipients.
    async fn stack_secrets_set(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        secrets: SealedSecretsInput,
    ) -> Result<Stack> {
        let (operations, id) = (operations(ctx)?, stack_id(&stack)?);
        let present = operations.stacks.stack(&id).await.map_err(refused)?;
        let bundle = bundle(present.secrets_version + 1, secrets);
        let changed = operations.stacks.set_secrets(&actor(ctx)?, &id, bundle).await;
        Ok(changed.map_err(refused)?.into())
    }
}

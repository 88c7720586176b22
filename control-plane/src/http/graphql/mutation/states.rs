//! What changes about stacks' Terraform states.

use async_graphql::{Context, ID, Object, Result, SimpleObject};

use super::{UploadHeaders, actor, operations, pool_id, stack_id};
use crate::http::graphql::error::{not_found, refused};
use crate::http::graphql::types::input::StatePushInput;
use crate::http::graphql::types::stack::StateVersion;
use crate::http::graphql::types::ulid;
use crate::stacks::PushedState;

/// Changes of states.
#[derive(Default)]
pub(crate) struct StateChanges;

#[Object]
impl StateChanges {
    /// Gantry: makes an older or an orphaned version of a stack's Terraform state the one that the next
    /// run begins with.
    async fn state_rollback(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        #[graphql(desc = "The version's id.")] version: ID,
    ) -> Result<StateVersion> {
        let (actor, stack) = (actor(ctx)?, stack_id(&stack)?);
        let rolled = operations(ctx)?.stacks.roll_state_back(&actor, &stack, &version).await;
        Ok(rolled.map_err(refused)?.into())
    }

    /// Gantry: where to put a state that a person brings in, which `statePush` then makes the current one.
    async fn state_upload(&self, ctx: &Context<'_>, stack: ID) -> Result<StateUpload> {
        let upload =
            operations(ctx)?.stacks.state_upload(&stack_id(&stack)?).await.map_err(refused)?;
        Ok(StateUpload {
            id: upload.push.to_string().into(),
            upload_url: upload.url,
            upload_headers: UploadHeaders::once(),
        })
    }

    /// Gantry: makes a state that was uploaded, sealed to the stack's recipients and signed with its pool's
    /// key, the one that the next run begins with.
    async fn state_push(
        &self,
        ctx: &Context<'_>,
        stack: ID,
        state: StatePushInput,
    ) -> Result<StateVersion> {
        let push = ulid(&state.id).ok_or_else(|| not_found("push", &state.id))?;
        let pushed = PushedState {
            push,
            pool: state.worker_pool.map(|pool| pool_id(&pool)).transpose()?,
            serial: state.serial.0,
            lineage: state.lineage,
            header: state.header,
            payload_sha256: state.payload_sha256,
            payload_size: state.size.0,
            predecessor: state.predecessor,
            signature: state.signature,
        };
        let kept =
            operations(ctx)?.stacks.push_state(&actor(ctx)?, &stack_id(&stack)?, pushed).await;
        Ok(kept.map_err(refused)?.into())
    }
}

/// Gantry: where to put a state.
#[derive(SimpleObject)]
struct StateUpload {
    /// The push: names it for `statePush`, and stands in the place of the run in what the pool signs.
    id: ID,
    /// A pre-signed url for one PUT.
    upload_url: String,
    /// The headers that the PUT must have.
    upload_headers: UploadHeaders,
}

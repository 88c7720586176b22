//! A stack's lock: set and lifted by people.

use crate::stacks::Stacks;
use gantry_model::StackId;

use super::{Stack, StackLock, read_stack_with_secrets};
use crate::check;
use crate::error::OperationError;
use crate::runs::change::{hold, promote};
use crate::store::stacks::set_lock;

impl Stacks {
    /// Keeps blocking runs of the stack from beginning anything: those that wait for a worker go back,
    /// and what others plan is not confirmed by itself. Only the owner of the lock can trigger and confirm
    /// runs that go on. What a worker has already goes on.
    ///
    /// # Errors
    /// When there is no such stack or it is locked.
    pub async fn lock_stack(
        &self,
        actor: &str,
        stack: &StackId,
        note: &str,
    ) -> Result<Stack, OperationError> {
        check::text("note", note, 0, check::MAX_NOTE)?;
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if let Some(lock) = present.lock {
            return Err(OperationError::Conflict(format!(
                "stack {stack} is locked by {} already: lift that first with `gantry stack unlock \
                 {stack}`",
                lock.by
            )));
        }
        let lock = StackLock { by: actor.to_owned(), note: note.to_owned(), at: unit.now() };
        set_lock(unit.conn(), stack, Some(&lock)).await?;
        hold(&mut unit, stack).await?;
        unit.audit(actor, "stack.lock", &format!("stack {stack}"), note).await?;
        unit.commit().await?;
        self.stack(stack).await
    }

    /// Lifts the stack's lock. Runs that wait behind it go on; what is UNCONFIRMED stays so.
    ///
    /// # Errors
    /// When there is no such stack or it is not locked.
    pub async fn unlock_stack(
        &self,
        actor: &str,
        stack: &StackId,
    ) -> Result<Stack, OperationError> {
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        let Some(lock) = present.lock else {
            return Err(OperationError::Conflict(format!(
                "stack {stack} is not locked: there is nothing to lift"
            )));
        };
        set_lock(unit.conn(), stack, None).await?;
        let detail = format!("it was locked by {}: {}", lock.by, lock.note);
        unit.audit(actor, "stack.unlock", &format!("stack {stack}"), &detail).await?;
        promote(&mut unit, stack).await?;
        unit.commit().await?;
        self.stack(stack).await
    }
}

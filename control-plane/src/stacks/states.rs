//! The versions of a stack's Terraform state, sealed and signed.

use std::time::Duration;

use crate::stacks::Stacks;
use gantry_model::{SERVER, StackId, Stage};

use super::{Stack, StateVersion, read_stack_with_secrets};
use crate::error::OperationError;
use crate::store::Connection;
use crate::store::runs::run_with_state;
use crate::store::states::{
    current_state, find_state, list_states, set_current_state, state_with_serial,
};

/// The most state versions of one list.
const MAX_STATES: i64 = 1000;

impl Stacks {
    /// A URL for a state version's payload, which can be used for so long.
    ///
    /// # Errors
    /// When the object store fails.
    pub async fn state_url(
        &self,
        version: &StateVersion,
        valid: Duration,
    ) -> Result<String, OperationError> {
        Ok(self.objects.presign_get(&version.key, valid).await?)
    }

    /// The stack's state versions, newest first, orphaned ones included, at most 1000.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn states_of(&self, stack: &StackId) -> Result<Vec<StateVersion>, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        Ok(list_states(&mut conn, stack, MAX_STATES).await?)
    }

    /// The state version with this serial that is not orphaned; the current one if none is named.
    ///
    /// # Errors
    /// When there is none.
    pub async fn state_version(
        &self,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<StateVersion, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        let found = match serial {
            None => current_state(&mut conn, stack).await?,
            Some(serial) => state_with_serial(&mut conn, stack, serial).await?,
        };
        let wanted = || serial.map_or_else(|| "current".to_owned(), |serial| serial.to_string());
        found.ok_or_else(|| OperationError::not_found("state version", wanted()))
    }

    /// The state version with this id, orphaned or not.
    ///
    /// # Errors
    /// When the stack has none.
    pub async fn state_version_named(
        &self,
        stack: &StackId,
        version: &str,
    ) -> Result<StateVersion, OperationError> {
        self.stack(stack).await?;
        named(&mut *self.store().read().await?, stack, version).await
    }

    /// Makes an older or an orphaned version the one that the next run begins with.
    ///
    /// # Errors
    /// When somebody else has locked the stack, there is no such version, a read stage wrote it, or a run is under way that begins or began
    /// with the present one.
    pub async fn roll_state_back(
        &self,
        actor: &str,
        stack: &StackId,
        version: &str,
    ) -> Result<StateVersion, OperationError> {
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if !present.manage_state {
            return Err(OperationError::Conflict(
                "the stack's state is in a backend of its own: go back to an older version there"
                    .to_owned(),
            ));
        }
        check_lock(&present, actor)?;
        let wanted = named(unit.conn(), stack, version).await?;
        if wanted.is_current {
            return Ok(wanted);
        }
        if wanted.attempt.stage == Stage::Read {
            return Err(OperationError::Conflict(
                "a read stage wrote this version, and may not: choose another one".to_owned(),
            ));
        }
        if let Some(run) = run_with_state(unit.conn(), stack).await? {
            return Err(OperationError::Conflict(format!(
                "run {run} works with the present version: let it end, discard or cancel it, then go back"
            )));
        }
        let former = current_state(unit.conn(), stack).await?;
        let (serial, orphaned) = (wanted.serial, wanted.orphaned.as_deref());
        let place = |version: StateVersion| format!("{} ({})", version.serial, version.id);
        let mut detail = format!(
            "{serial} ({version}) in the place of {}",
            former.map_or_else(|| "none".to_owned(), place)
        );
        if let Some(why) = orphaned {
            detail = format!("{detail}; it was orphaned: {why}");
        }
        set_current_state(unit.conn(), stack, version).await?;
        unit.audit(actor, "stack.state_rollback", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        self.state_version_named(stack, version).await
    }
}

/// That nobody else holds the stack. The server's own lock asks for a person, who may be mending the state.
pub(super) fn check_lock(stack: &Stack, actor: &str) -> Result<(), OperationError> {
    match &stack.lock {
        Some(lock) if lock.by != actor && lock.by != SERVER => {
            Err(OperationError::Conflict(format!(
                "{} has locked stack {id}: `gantry stack unlock {id}` lifts that",
                lock.by,
                id = stack.id
            )))
        }
        _ => Ok(()),
    }
}

async fn named(
    conn: &mut Connection,
    stack: &StackId,
    version: &str,
) -> Result<StateVersion, OperationError> {
    let found = find_state(conn, stack, version).await?;
    found.ok_or_else(|| OperationError::not_found("state version", version))
}

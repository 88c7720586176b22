//! A stack's lock, as far as it holds runs.
//!
//! Behind a lock no blocking run begins anything but those of the lock's owner: what they triggered or
//! confirmed themselves. What a worker has already goes on. [`hold_if_locked`] stands in the way of every
//! change after which a run would wait for a worker, so no way to get there can be forgotten.

use gantry_model::{Assignment, RunLifecycle, RunState, StackId};
use sqlx::Row as _;

use super::stacks::find_lock;
use super::{RunRow, StoreError, id, load_run, save_run, to_db};
use crate::core::UnitOfWork as Unit;

/// The name under which the server itself locks a stack.
pub(crate) const SERVER: &str = "gantry";

/// Who locked a stack, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) by: String,
    pub(crate) note: String,
}

impl Lock {
    /// Why the lock holds a run, for people.
    pub(crate) fn reason(&self) -> String {
        let colon = if self.note.is_empty() { "" } else { ": " };
        format!("{} has locked the stack{colon}{}", self.by, self.note)
    }
}

/// The stack's lock, if it has one.
pub(crate) async fn lock_of(unit: &mut Unit, stack: &StackId) -> Result<Option<Lock>, StoreError> {
    let lock = find_lock(unit.conn(), stack).await?;
    Ok(lock.map(|lock| Lock { by: lock.by, note: lock.note }))
}

/// The lock that is in the way of a run, if its stack has one of somebody else.
pub(crate) async fn lock_against(
    unit: &mut Unit,
    row: &RunRow,
) -> Result<Option<Lock>, StoreError> {
    if !row.lifecycle.run_type().is_blocking() {
        return Ok(None);
    }
    let is_owners =
        |lock: &Lock| lock.by == row.triggered_by || row.confirmed_by.as_ref() == Some(&lock.by);
    Ok(lock_of(unit, &row.stack).await?.filter(|lock| !is_owners(lock)))
}

/// A run that would wait for a worker from now on waits behind the lock instead, if there is one.
pub(super) async fn hold_if_locked(
    unit: &mut Unit,
    before: &RunLifecycle,
    row: &mut RunRow,
) -> Result<(), StoreError> {
    if *row.lifecycle.assignment() != Assignment::Waiting
        || *before.assignment() == Assignment::Waiting
    {
        return Ok(());
    }
    if let Some(lock) = lock_against(unit, row).await? {
        let is_autodeploy =
            row.lifecycle.is_autodeployed() && row.lifecycle.state() == RunState::Confirmed;
        let first = if is_autodeploy { "not confirmed by autodeploy: " } else { "" };
        row.lifecycle.hold(&format!("{first}{}", lock.reason()));
    }
    Ok(())
}

/// Holds the runs of a stack that was just locked and that no worker has.
pub(crate) async fn hold(unit: &mut Unit, stack: &StackId) -> Result<(), StoreError> {
    let select = "SELECT id FROM runs WHERE stack = $1 AND standing IN ('waiting', 'offered')";
    let waiting = sqlx::query(select).bind(stack.as_str()).fetch_all(unit.conn()).await?;
    for found in waiting {
        let Some(mut row) = load_run(unit.conn(), id("run", found.get("id"))?).await? else {
            continue;
        };
        let Some(lock) = lock_against(unit, &row).await? else { continue };
        let before = row.lifecycle.clone();
        if row.lifecycle.hold(&lock.reason()) {
            save_run(unit, &before, &mut row).await?;
        }
    }
    Ok(())
}

/// Locks the stack in the server's own name, which is nobody's: not even the runs of a person who has
/// locked it go on before somebody has looked. That person's lock stays as words.
pub(super) async fn lock_for_a_person(unit: &mut Unit, row: &RunRow) -> Result<(), StoreError> {
    let update = "UPDATE stacks SET lock_note = CASE WHEN lock_by IS NULL THEN $3 \
                  WHEN lock_by = $2 THEN lock_note || '; ' || $3 \
                  ELSE $3 || '; ' || lock_by || ' had locked it' || \
                  CASE WHEN lock_note = '' THEN '' ELSE ': ' || lock_note END END, \
                  lock_by = $2, lock_at = COALESCE(lock_at, $4) WHERE id = $1";
    sqlx::query(update)
        .bind(row.stack.as_str())
        .bind(SERVER)
        .bind(format!("the outcome of run {} is unknown", row.lifecycle.run()))
        .bind(to_db(unit.now().0))
        .execute(unit.conn())
        .await?;
    Ok(())
}

//! A run that changes: what `gantry-model` says that follows is written with it, in the same transaction, and
//! whoever watches is told.

use gantry_model::{Effect, RunId, RunLifecycle, RunState, RunType, StackId, StackLock, effects};

use crate::core::UnitOfWork as Unit;
use crate::store::runs::{insert_run, list_ungranted, oldest_queued, write_run};
use crate::store::stacks::{Stack, find_blocker, find_lock};
use crate::store::{Connection, RunRow, StoreError};

/// Makes a run what `row` says, and does what follows from the difference to `before`.
pub(crate) async fn save_run(
    unit: &mut Unit,
    before: &RunLifecycle,
    row: &mut RunRow,
) -> Result<(), StoreError> {
    // No way to get a worker can be forgotten: it is here that a lock is in the way.
    if row.lifecycle.begins_to_wait(before)
        && let Some(lock) = lock_against(unit.conn(), row).await?
    {
        row.lifecycle.hold_behind(&lock);
    }
    if write(unit, before, row).await?.contains(&Effect::ReleaseStack) {
        promote(unit, &row.stack).await?;
    }
    Ok(())
}

async fn write(
    unit: &mut Unit,
    before: &RunLifecycle,
    row: &mut RunRow,
) -> Result<Vec<Effect>, StoreError> {
    let now = unit.now();
    let lock =
        if row.lifecycle.is_unknown() { find_lock(unit.conn(), &row.stack).await? } else { None };
    let effects = effects(before, &row.lifecycle, lock, now);
    // That its turn has come is nobody's doing.
    let by = unit.actor_of(row.lifecycle.run());
    let by = by.filter(|_| row.lifecycle.state() != RunState::Ready);
    write_run(unit.conn(), row, &effects, by.as_deref(), now).await?;
    unit.changed(row.lifecycle.run());
    unit.wake();
    Ok(effects)
}

/// What a new run is made of.
pub(crate) struct FreshRun {
    pub(crate) id: RunId,
    pub(crate) run_type: RunType,
    pub(crate) stack: Stack,
    /// The id of its source.
    pub(crate) source: String,
    pub(crate) command: Option<String>,
    pub(crate) metadata: Vec<String>,
}

/// Makes a run: QUEUED, or READY if it blocks nothing.
pub(crate) async fn create_run(
    unit: &mut Unit,
    actor: &str,
    fresh: FreshRun,
) -> Result<(), StoreError> {
    let now = unit.now();
    let run = fresh.id;
    let mut row = RunRow {
        lifecycle: RunLifecycle::queued(run, fresh.run_type, fresh.stack.autodeploy),
        stack: fresh.stack.id,
        pool: fresh.stack.pool,
        source: fresh.source,
        command: fresh.command,
        triggered_by: actor.to_owned(),
        confirmed_by: None,
        metadata: fresh.metadata,
        created_at: now,
        updated_at: now,
        has_changes: None,
        delta: None,
        outputs: Vec::new(),
        history_count: 0,
        log_length: 0,
    };
    unit.acts(actor, run);
    insert_run(unit.conn(), &row).await?;
    write_run(unit.conn(), &mut row, &[Effect::AddHistory], Some(actor), now).await?;
    if fresh.run_type.is_blocking() {
        promote(unit, &row.stack).await?;
    } else {
        make_ready(unit, &mut row).await?;
    }
    Ok(())
}

/// Lets the oldest queued run of the stack go on, if nothing is in its way. Behind a lock only those of
/// the lock's owner go on.
pub(crate) async fn promote(unit: &mut Unit, stack: &StackId) -> Result<(), StoreError> {
    if find_blocker(unit.conn(), stack).await?.is_some() {
        return Ok(());
    }
    let owner = find_lock(unit.conn(), stack).await?.map(|lock| lock.by);
    match oldest_queued(unit.conn(), stack, owner.as_deref()).await? {
        Some(mut row) => make_ready(unit, &mut row).await,
        None => Ok(()),
    }
}

async fn make_ready(unit: &mut Unit, row: &mut RunRow) -> Result<(), StoreError> {
    let before = row.lifecycle.clone();
    if row.lifecycle.ready().is_ok() {
        write(unit, &before, row).await?;
    }
    Ok(())
}

/// Holds the runs of a stack that was just locked and that no worker has.
pub(crate) async fn hold(unit: &mut Unit, stack: &StackId) -> Result<(), StoreError> {
    for mut row in list_ungranted(unit.conn(), stack).await? {
        let Some(lock) = lock_against(unit.conn(), &row).await? else { continue };
        let before = row.lifecycle.clone();
        if row.lifecycle.hold(&lock.reason()) {
            save_run(unit, &before, &mut row).await?;
        }
    }
    Ok(())
}

/// The lock that is in the way of a run, if its stack has one of somebody else.
pub(crate) async fn lock_against(
    conn: &mut Connection,
    row: &RunRow,
) -> Result<Option<StackLock>, StoreError> {
    let run_type = row.lifecycle.run_type();
    let lock = find_lock(conn, &row.stack).await?;
    Ok(lock.filter(|it| it.holds(run_type, &row.triggered_by, row.confirmed_by.as_deref())))
}

//! What follows from a change of a run's lifecycle: decided here, written by whoever keeps the runs.

use crate::{Assignment, Attempt, RunLifecycle, RunState, StackLock, Timestamp, WorkerId};

/// For how long workspaces and specs are kept after a run's end, in milliseconds: longer than any URL to one
/// is good.
const LEFTOVERS_MS: u64 = 24 * 60 * 60 * 1000;

/// When the workspaces and specs of a run that ended now can go.
#[must_use]
pub const fn clear_at(now: Timestamp) -> Timestamp {
    now.plus_ms(LEFTOVERS_MS)
}

/// One thing that follows from a change of a run. They are written in the order in which they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Its state and note become part of its history.
    AddHistory,
    /// A worker has this attempt no more. Why stands in the run's note.
    EndAttempt(Attempt),
    /// A worker has the run no more. One that went on to another run keeps that.
    FreeWorker(WorkerId),
    /// A worker has the run.
    OccupyWorker(WorkerId),
    /// A worker was asked to take this attempt.
    BeginAttempt(Attempt, WorkerId),
    /// The worker became the owner of this attempt.
    GrantAttempt(Attempt),
    /// What it left in the object store can go then.
    ClearAt(Timestamp),
    /// It keeps the other runs of its stack waiting, unless another one does already.
    BlockStack,
    /// Nobody knows what it did: its stack is locked until a person has looked.
    LockStack(StackLock),
    /// It keeps the other runs of its stack waiting no more, and the next one goes on.
    ReleaseStack,
}

/// What follows from the change of a run whose stack has this lock.
#[must_use]
pub fn effects(
    before: &RunLifecycle,
    after: &RunLifecycle,
    lock: Option<StackLock>,
    now: Timestamp,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    if before.state() != after.state() || before.note() != after.note() {
        effects.push(Effect::AddHistory);
    }
    follow_owner(before, after, &mut effects);
    let is_over = after.state().is_terminal() && !before.state().is_terminal();
    if is_over {
        effects.push(Effect::ClearAt(clear_at(now)));
    }
    if after.run_type().is_blocking() {
        let (was_queued, is_queued) =
            (before.state() == RunState::Queued, after.state() == RunState::Queued);
        if was_queued && !is_queued && !is_over {
            effects.push(Effect::BlockStack);
        }
        if is_over && after.is_unknown() {
            let lock = StackLock::of_an_unknown_outcome(lock, after.run(), now);
            effects.push(Effect::LockStack(lock));
        }
        if is_over || is_queued && !was_queued {
            effects.push(Effect::ReleaseStack);
        }
    }
    effects
}

/// Who has the run, and since when: of the workers and of the attempts.
fn follow_owner(before: &RunLifecycle, after: &RunLifecycle, effects: &mut Vec<Effect>) {
    let (old, new) = (before.assignment().worker(), after.assignment().worker());
    let is_same_attempt = before.attempt() == after.attempt();
    if let Some(worker) = old
        && (old != new || !is_same_attempt)
    {
        effects.push(Effect::EndAttempt(before.attempt()));
        if old != new {
            effects.push(Effect::FreeWorker(worker));
        }
    }
    let Some(worker) = new else { return };
    if old != new {
        effects.push(Effect::OccupyWorker(worker));
    }
    if old != new || !is_same_attempt {
        effects.push(Effect::BeginAttempt(after.attempt(), worker));
    }
    let was_granted = matches!(before.assignment(), Assignment::Granted(_)) && is_same_attempt;
    if matches!(after.assignment(), Assignment::Granted(_)) && !was_granted {
        effects.push(Effect::GrantAttempt(after.attempt()));
    }
}

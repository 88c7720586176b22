//! Enumerations whose names and values public clients know.
//!
//! They hold more than this version does, so that a query that mentions the rest is not refused.

use async_graphql::Enum;
use gantry_model as model;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum RunState {
    /// Waits behind another run of its stack.
    Queued,
    /// Waits for a free worker.
    Ready,
    /// Not used any more.
    Pending,
    /// Is being handed to a worker.
    Preparing,
    /// Is being handed to a worker for its second half.
    PreparingApply,
    /// Is being handed to a worker to plan again.
    PreparingReplan,
    /// Initializes.
    Initializing,
    /// Plans.
    Planning,
    /// Waits for an approval of its plan.
    PendingReview,
    /// Waits for a person to confirm or discard.
    Unconfirmed,
    /// Was confirmed; waits for a free worker.
    Confirmed,
    /// Is to plan again.
    ReplanRequested,
    /// Applies.
    Applying,
    /// Performs a task.
    Performing,
    /// Destroys.
    Destroying,
    /// Ended well.
    Finished,
    /// Ended badly, or nobody knows how.
    Failed,
    /// Was ended while it ran.
    Stopped,
    /// Was ended before it ran.
    Canceled,
    /// Its plan was turned down.
    Discarded,
    /// Had nothing to do.
    Skipped,
}

impl From<model::RunState> for RunState {
    fn from(state: model::RunState) -> Self {
        match state {
            model::RunState::Queued => Self::Queued,
            model::RunState::Ready => Self::Ready,
            model::RunState::Preparing => Self::Preparing,
            model::RunState::Initializing => Self::Initializing,
            model::RunState::Planning => Self::Planning,
            model::RunState::Unconfirmed => Self::Unconfirmed,
            model::RunState::Confirmed => Self::Confirmed,
            model::RunState::PreparingApply => Self::PreparingApply,
            model::RunState::Applying => Self::Applying,
            model::RunState::Performing => Self::Performing,
            model::RunState::Destroying => Self::Destroying,
            model::RunState::Finished => Self::Finished,
            model::RunState::Failed => Self::Failed,
            model::RunState::Stopped => Self::Stopped,
            model::RunState::Canceled => Self::Canceled,
            model::RunState::Discarded => Self::Discarded,
            model::RunState::Skipped => Self::Skipped,
        }
    }
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum RunType {
    /// Shows what would change and changes nothing.
    Proposed,
    /// Plans and, once confirmed, applies.
    Tracked,
    /// Runs one command.
    Task,
    /// Tests a module.
    Testing,
    /// Removes everything that the stack made.
    Destroy,
    /// Reads a configuration. Not done here.
    Parse,
}

impl From<model::RunType> for RunType {
    fn from(run_type: model::RunType) -> Self {
        match run_type {
            model::RunType::Proposed => Self::Proposed,
            model::RunType::Tracked => Self::Tracked,
            model::RunType::Task => Self::Task,
            model::RunType::Testing => Self::Testing,
            model::RunType::Destroy => Self::Destroy,
        }
    }
}

/// Where a stack is: the state of its newest run that may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum StackState {
    /// Had no such run yet.
    None,
    /// See [`RunState`].
    Queued,
    /// See [`RunState`].
    Ready,
    /// See [`RunState`].
    Preparing,
    /// See [`RunState`].
    PreparingApply,
    /// See [`RunState`].
    Initializing,
    /// See [`RunState`].
    Planning,
    /// See [`RunState`].
    Unconfirmed,
    /// See [`RunState`].
    Confirmed,
    /// See [`RunState`].
    Applying,
    /// See [`RunState`].
    Performing,
    /// See [`RunState`].
    Destroying,
    /// See [`RunState`].
    Finished,
    /// See [`RunState`].
    Failed,
    /// See [`RunState`].
    Stopped,
    /// See [`RunState`].
    Canceled,
    /// See [`RunState`].
    Discarded,
    /// See [`RunState`].
    Skipped,
}

impl From<Option<model::RunState>> for StackState {
    fn from(state: Option<model::RunState>) -> Self {
        let Some(state) = state else { return Self::None };
        match state {
            model::RunState::Queued => Self::Queued,
            model::RunState::Ready => Self::Ready,
            model::RunState::Preparing => Self::Preparing,
            model::RunState::Initializing => Self::Initializing,
            model::RunState::Planning => Self::Planning,
            model::RunState::Unconfirmed => Self::Unconfirmed,
            model::RunState::Confirmed => Self::Confirmed,
            model::RunState::PreparingApply => Self::PreparingApply,
            model::RunState::Applying => Self::Applying,
            model::RunState::Performing => Self::Performing,
            model::RunState::Destroying => Self::Destroying,
            model::RunState::Finished => Self::Finished,
            model::RunState::Failed => Self::Failed,
            model::RunState::Stopped => Self::Stopped,
            model::RunState::Canceled => Self::Canceled,
            model::RunState::Discarded => Self::Discarded,
            model::RunState::Skipped => Self::Skipped,
        }
    }
}

/// A worker in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum WorkerStatus {
    /// Waits for a run.
    Idle,
    /// Has a run.
    Busy,
    /// Takes no new runs.
    Drained,
}

/// Which key a durable thing is sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum RecipientKind {
    /// A pool's.
    Pool,
    /// The recovery key.
    Recovery,
}

/// How far a forced apply goes. Not done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(crate) enum ForceApplyMode {
    /// This stack.
    Single,
    /// This stack and what depends on it.
    Cascade,
}

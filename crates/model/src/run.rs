//! Runs: their types and the states that people see.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Phase, Stage};

/// One stage of a run, and what is done in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagePlan {
    /// The stage.
    pub stage: Stage,
    /// Its phases, in their order.
    pub phases: &'static [Phase],
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunType {
    /// Shows what would change and changes nothing.
    Proposed,
    /// Plans and, once confirmed, applies.
    Tracked,
    /// Runs one command of a user's.
    Task,
    /// Plans, applies and destroys a module's test case.
    Testing,
    /// Removes everything that the stack made.
    Destroy,
}

impl RunType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Proposed, Self::Tracked, Self::Task, Self::Testing, Self::Destroy];

    /// Its place in a pool's queue: lower ones go first.
    #[must_use]
    pub const fn rank(self) -> u8 {
        if self.is_blocking() { 0 } else { 1 }
    }

    /// Whether a run of this type may change its stack's state.
    #[must_use]
    pub const fn may_write_state(self) -> bool {
        match self {
            Self::Tracked | Self::Task | Self::Testing | Self::Destroy => true,
            Self::Proposed => false,
        }
    }

    /// Its stages, in their order, and the phases of each. A run goes on to the next stage only if there is
    /// something to change, and somebody confirms that.
    #[must_use]
    pub const fn stages(self) -> &'static [StagePlan] {
        const PLAN: StagePlan =
            StagePlan { stage: Stage::Read, phases: &[Phase::Initialize, Phase::Plan] };
        const fn write(phases: &'static [Phase]) -> StagePlan {
            StagePlan { stage: Stage::Write, phases }
        }
        match self {
            Self::Proposed => const { &[PLAN] },
            Self::Tracked => const { &[PLAN, write(&[Phase::Apply])] },
            Self::Destroy => const { &[PLAN, write(&[Phase::Destroy])] },
            Self::Task => const { &[write(&[Phase::Initialize, Phase::Perform])] },
            Self::Testing => {
                const { &[write(&[Phase::Initialize, Phase::Plan, Phase::Apply, Phase::Destroy])] }
            }
        }
    }

    /// The stage that a run of this type begins with.
    #[must_use]
    pub const fn first_stage(self) -> Stage {
        self.stages()[0].stage
    }

    /// The stage that follows this one, if any does.
    #[must_use]
    pub fn stage_after(self, stage: Stage) -> Option<Stage> {
        self.plan_after(stage).map(|plan| plan.stage)
    }

    /// The phases of a stage of such a run; none if it has no such stage.
    #[must_use]
    pub fn phases(self, stage: Stage) -> &'static [Phase] {
        let plan = self.stages().iter().find(|plan| plan.stage == stage);
        plan.map_or(&[], |plan| plan.phases)
    }

    /// The phases of the stage that follows this one; none if no stage does.
    #[must_use]
    pub fn phases_after(self, stage: Stage) -> &'static [Phase] {
        self.plan_after(stage).map_or(&[], |plan| plan.phases)
    }

    fn plan_after(self, stage: Stage) -> Option<&'static StagePlan> {
        self.stages().iter().skip_while(|plan| plan.stage != stage).nth(1)
    }

    /// Whether it keeps other such runs of its stack waiting until it is over.
    #[must_use]
    pub const fn is_blocking(self) -> bool {
        match self {
            Self::Tracked | Self::Task | Self::Destroy => true,
            Self::Proposed | Self::Testing => false,
        }
    }

    /// The name in the public API, such as `TRACKED`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "PROPOSED",
            Self::Tracked => "TRACKED",
            Self::Task => "TASK",
            Self::Testing => "TESTING",
            Self::Destroy => "DESTROY",
        }
    }
}

impl fmt::Display for RunType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a run is, in the words of its public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunState {
    /// Waits behind another run of its stack.
    Queued,
    /// Waits for a free worker.
    Ready,
    /// Is being handed to a worker.
    Preparing,
    /// Runs [`crate::Phase::Initialize`].
    Initializing,
    /// Runs [`crate::Phase::Plan`].
    Planning,
    /// Waits for a person to confirm or discard.
    Unconfirmed,
    /// Confirmed; waits for a free worker.
    Confirmed,
    /// Its second half is being handed to a worker.
    PreparingApply,
    /// Runs [`crate::Phase::Apply`].
    Applying,
    /// Runs [`crate::Phase::Perform`].
    Performing,
    /// Runs [`crate::Phase::Destroy`].
    Destroying,
    /// Ended well.
    Finished,
    /// Ended badly, or nobody knows how.
    Failed,
    /// A person or a timeout ended it while it ran.
    Stopped,
    /// A person ended it before it ran.
    Canceled,
    /// A person turned its plan down.
    Discarded,
    /// Had nothing to do.
    Skipped,
}

impl RunState {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Queued,
        Self::Ready,
        Self::Preparing,
        Self::Initializing,
        Self::Planning,
        Self::Unconfirmed,
        Self::Confirmed,
        Self::PreparingApply,
        Self::Applying,
        Self::Performing,
        Self::Destroying,
        Self::Finished,
        Self::Failed,
        Self::Stopped,
        Self::Canceled,
        Self::Discarded,
        Self::Skipped,
    ];

    /// Nothing follows this state.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Finished
            | Self::Failed
            | Self::Stopped
            | Self::Canceled
            | Self::Discarded
            | Self::Skipped => true,
            Self::Queued
            | Self::Ready
            | Self::Preparing
            | Self::Initializing
            | Self::Planning
            | Self::Unconfirmed
            | Self::Confirmed
            | Self::PreparingApply
            | Self::Applying
            | Self::Performing
            | Self::Destroying => false,
        }
    }

    /// The name in the public API, such as `PREPARING_APPLY`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Ready => "READY",
            Self::Preparing => "PREPARING",
            Self::Initializing => "INITIALIZING",
            Self::Planning => "PLANNING",
            Self::Unconfirmed => "UNCONFIRMED",
            Self::Confirmed => "CONFIRMED",
            Self::PreparingApply => "PREPARING_APPLY",
            Self::Applying => "APPLYING",
            Self::Performing => "PERFORMING",
            Self::Destroying => "DESTROYING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Stopped => "STOPPED",
            Self::Canceled => "CANCELED",
            Self::Discarded => "DISCARDED",
            Self::Skipped => "SKIPPED",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Phase {
    /// The state that a run shows while this phase runs.
    #[must_use]
    pub const fn run_state(self) -> RunState {
        match self {
            Self::Initialize => RunState::Initializing,
            Self::Plan => RunState::Planning,
            Self::Apply => RunState::Applying,
            Self::Perform => RunState::Performing,
            Self::Destroy => RunState::Destroying,
        }
    }
}

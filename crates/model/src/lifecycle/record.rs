//! What a lifecycle consists of: to be kept, and to be looked at.

use super::RunLifecycle;
use crate::{Assignment, Epoch, RunId, RunState, RunType, Stage};

/// All that a run's lifecycle consists of, as it is kept: it goes in and out of the database as this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Which run.
    pub run: RunId,
    /// What it is for.
    pub run_type: RunType,
    /// Whether a plan's changes need no person.
    pub autodeploy: bool,
    /// What people see.
    pub state: RunState,
    /// The stage that it is in or waits for.
    pub stage: Stage,
    /// The newest offer, or a later number that makes it void.
    pub epoch: Epoch,
    /// How often its read stage was granted.
    pub read_attempts: u32,
    /// Which worker it was offered or granted to.
    pub assignment: Assignment,
    /// Who wants it stopped.
    pub stop: Option<String>,
    /// Why it is in this state, for people.
    pub note: Option<String>,
    /// Its write stage may have changed something and nobody knows what.
    pub is_unknown: bool,
}

impl RunLifecycle {
    /// The lifecycle that was kept as this.
    #[must_use]
    pub const fn restore(record: RunRecord) -> Self {
        Self(record)
    }

    /// What to keep of it.
    #[must_use]
    pub const fn record(&self) -> &RunRecord {
        &self.0
    }

    /// Which run.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.0.run
    }

    /// What it is for.
    #[must_use]
    pub const fn run_type(&self) -> RunType {
        self.0.run_type
    }

    /// Whether a plan's changes need no person.
    #[must_use]
    pub const fn is_autodeployed(&self) -> bool {
        self.0.autodeploy
    }

    /// What people see.
    #[must_use]
    pub const fn state(&self) -> RunState {
        self.0.state
    }

    /// The stage that it is in or waits for.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.0.stage
    }

    /// The newest offer, or a later number that makes it void.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// How often its read stage was granted.
    #[must_use]
    pub const fn read_attempts(&self) -> u32 {
        self.0.read_attempts
    }

    /// Which worker it was offered or granted to.
    #[must_use]
    pub const fn assignment(&self) -> &Assignment {
        &self.0.assignment
    }

    /// Who wants it stopped.
    #[must_use]
    pub fn stop_by(&self) -> Option<&str> {
        self.0.stop.as_deref()
    }

    /// Why it is in this state, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// Whether its write stage may have changed something and nobody knows what.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.0.is_unknown
    }
}

//! What a lock does to a run that waits.

use super::RunLifecycle;
use crate::{Assignment, RunState, StackLock};

impl RunLifecycle {
    /// Whether it waits for a worker now and did not before: the change after which a lock may be in its way.
    #[must_use]
    pub fn begins_to_wait(&self, before: &Self) -> bool {
        self.0.assignment == Assignment::Waiting && before.0.assignment != Assignment::Waiting
    }

    /// Waits behind this lock instead of for a worker. False, and nothing changes, if a worker has it or it
    /// does not wait for one.
    pub fn hold_behind(&mut self, lock: &StackLock) -> bool {
        let is_autodeployed = self.0.autodeploy && self.0.state == RunState::Confirmed;
        let first = if is_autodeployed { "not confirmed by autodeploy: " } else { "" };
        self.hold(&format!("{first}{}", lock.reason()))
    }

    /// Its stack is locked before a worker has its stage: a confirmed plan waits for a person again,
    /// and everything else goes back behind the lock. What was offered cannot be claimed any more. False,
    /// and nothing changes, if a worker has it or it does not wait for one.
    pub fn hold(&mut self, why: &str) -> bool {
        match self.0.assignment {
            Assignment::Idle | Assignment::Granted(_) => return false,
            Assignment::Offered { .. } => self.0.epoch = self.0.epoch.next(),
            Assignment::Waiting => {}
        }
        self.0.assignment = Assignment::Idle;
        if self.is_begun() {
            self.0.stage = self.0.run_type.first_stage();
            self.enter(RunState::Unconfirmed, Some(why.to_owned()));
        } else {
            self.enter(RunState::Queued, Some(why.to_owned()));
        }
        true
    }
}

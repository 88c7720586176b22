//! What a lock does to a run that waits.

use super::RunLifecycle;
use crate::{Assignment, RunState};

impl RunLifecycle {
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

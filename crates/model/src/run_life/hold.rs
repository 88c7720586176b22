//! What a lock does to a run that waits.

use super::RunLife;
use crate::{RunState, Stage, Standing};

impl RunLife {
    /// Its stack is locked before a worker has its stage: a confirmed plan waits for a person again,
    /// and everything else goes back behind the lock. What was offered cannot be claimed any more. False,
    /// and nothing changes, if a worker has it or it does not wait for one.
    pub fn hold(&mut self, why: &str) -> bool {
        match self.standing {
            Standing::Idle | Standing::Granted(_) => return false,
            Standing::Offered { .. } => self.epoch = self.epoch.next(),
            Standing::Waiting => {}
        }
        self.standing = Standing::Idle;
        let is_second_half =
            self.stage == Stage::Write && self.run_type.first_stage() == Stage::Read;
        if is_second_half {
            self.stage = Stage::Read;
            self.enter(RunState::Unconfirmed, Some(why.to_owned()));
        } else {
            self.enter(RunState::Queued, Some(why.to_owned()));
        }
        true
    }
}

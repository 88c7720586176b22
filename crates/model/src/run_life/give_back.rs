//! A worker that leaves gives back what can be started anew.

use super::RunLife;
use crate::{Stage, Standing};

impl RunLife {
    /// Takes a read stage from its owner, who has to leave: it waits for another worker, and the attempt
    /// counts as none. False, and nothing changes, if nobody has it or it is a write stage.
    pub fn give_back(&mut self, why: &str) -> bool {
        let is_granted = matches!(self.standing, Standing::Granted(_));
        if !is_granted || self.stage != Stage::Read {
            return false;
        }
        self.read_attempts = self.read_attempts.saturating_sub(1);
        self.hand_back(Some(why.to_owned()));
        true
    }
}

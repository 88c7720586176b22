//! What a worker gives back: it leaves, never started it, or lost what it knew.

use super::{Expired, RunLife};
use crate::{JournalId, Stage, Standing, Terms, WorkerId};

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

    /// The owner's journal, the very one in which it would have noted the start, does not know this
    /// attempt: nothing of it was started, so it may be offered again. False if `worker` is not the
    /// owner or has another journal.
    pub fn never_started(&mut self, worker: WorkerId, journal: JournalId) -> bool {
        let Standing::Granted(lease) = self.standing else { return false };
        if lease.worker != worker || lease.journal != journal {
            return false;
        }
        if lease.is_continued {
            // Its workspace was never stored: there is nothing to hand over but a fresh start.
            self.stage = Stage::Read;
        }
        if self.stage == Stage::Read {
            self.read_attempts = self.read_attempts.saturating_sub(1);
        }
        self.hand_back(None);
        true
    }

    /// The owner lost the journal in which it kept what it did. A read stage is started anew; of a
    /// write stage nobody knows, so it stays until its deadline.
    pub fn journal_lost(&mut self, worker: WorkerId, terms: &Terms) -> Expired {
        let Standing::Granted(lease) = self.standing else { return Expired::NotDue };
        if lease.worker != worker {
            return Expired::NotDue;
        }
        match self.stage {
            Stage::Read => {
                self.take("its worker lost what it knew", terms);
                Expired::Taken(worker)
            }
            Stage::Write => Expired::NotDue,
        }
    }
}

//! What a worker gives back: it leaves, never started it, or lost what it knew.

use super::{Expired, RunLifecycle};
use crate::{Assignment, JournalId, LeaseTerms, Stage, WorkerId};

impl RunLifecycle {
    /// Takes a read stage from its owner, who has to leave: it waits for another worker, and the attempt
    /// counts as none. False, and nothing changes, if nobody has it or it is a write stage.
    pub fn give_back(&mut self, why: &str) -> bool {
        let is_granted = matches!(self.0.assignment, Assignment::Granted(_));
        if !is_granted || self.0.stage != Stage::Read {
            return false;
        }
        self.0.read_attempts = self.0.read_attempts.saturating_sub(1);
        self.hand_back(Some(why.to_owned()));
        true
    }

    /// The owner's journal, the very one in which it would have noted the start, does not know this
    /// attempt: nothing of it was started, so it may be offered again. False if `worker` is not the
    /// owner or has another journal.
    pub fn never_started(&mut self, worker: WorkerId, journal: JournalId) -> bool {
        let Assignment::Granted(lease) = self.0.assignment else { return false };
        if lease.worker != worker || lease.journal != journal {
            return false;
        }
        if lease.is_continued {
            // Its workspace was never stored: there is nothing to hand over but a fresh start.
            self.0.stage = Stage::Read;
        }
        if self.0.stage == Stage::Read {
            self.0.read_attempts = self.0.read_attempts.saturating_sub(1);
        }
        self.hand_back(None);
        true
    }

    /// The owner lost the journal in which it kept what it did. A read stage is started anew; of a
    /// write stage nobody knows, so it stays until its deadline.
    pub fn journal_lost(&mut self, worker: WorkerId, terms: &LeaseTerms) -> Expired {
        let Assignment::Granted(lease) = self.0.assignment else { return Expired::NotDue };
        if lease.worker != worker {
            return Expired::NotDue;
        }
        match self.0.stage {
            Stage::Read => {
                self.take("its worker lost what it knew", terms);
                Expired::Taken(worker)
            }
            Stage::Write => Expired::NotDue,
        }
    }
}

//! A server that was set back, as a restored backup is, learns from a worker what it had forgotten.

use super::RunLifecycle;
use crate::{Assignment, Attempt, JournalId, Lease, LeaseTerms, Stage, Timestamp, WorkerId};

/// The most epochs by which a launcher can know more than a server that was set back.
const MAX_AHEAD: u64 = 1 << 20;

impl RunLifecycle {
    /// A worker has this write stage in hand, which the server has yet to hand out. The worker's journal is
    /// the better witness, and what it has must not go to anybody else. A read stage that the server forgot
    /// is just planned again. False, and nothing changes, if the server knows as much or the run is over.
    pub fn recover(
        &mut self,
        worker: WorkerId,
        journal: JournalId,
        attempt: Attempt,
        now: Timestamp,
        terms: &LeaseTerms,
    ) -> bool {
        let is_ours = attempt.run == self.0.run
            && attempt.stage == Stage::Write
            && !self.0.run_type.phases(attempt.stage).is_empty();
        if !is_ours || self.0.state.is_terminal() || !self.is_behind(attempt) {
            return false;
        }
        self.0.stage = attempt.stage;
        self.0.epoch = attempt.epoch;
        self.0.assignment = Assignment::Granted(Lease {
            worker,
            journal,
            until: now.plus_ms(terms.lease_ms),
            deadline: now.plus_ms(terms.write_ms),
            is_continued: false,
        });
        let note = "its worker has it, and this server had forgotten that";
        self.enter(self.preparing(), Some(note.to_owned()));
        true
    }

    /// Whether the server cannot have granted the attempt, as far as it remembers.
    fn is_behind(&self, attempt: Attempt) -> bool {
        // Epochs rise by a few with each offer; more is no memory but an invention.
        let later = 1..=MAX_AHEAD;
        let is_offered = matches!(self.0.assignment, Assignment::Offered { .. });
        attempt.epoch.0.checked_sub(self.0.epoch.0).is_some_and(|by| later.contains(&by))
            || is_offered && self.attempt() == attempt
    }
}

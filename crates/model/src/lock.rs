//! A stack's lock: whom it holds, and what it says.
//!
//! Behind a lock no blocking run begins anything but those of the lock's owner: what they triggered or
//! confirmed themselves. What a worker has already goes on.

use crate::{RunId, RunType, Timestamp};

/// The name under which the server itself locks a stack.
pub const SERVER: &str = "gantry";

/// A lock on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackLock {
    /// Who locked it.
    pub by: String,
    /// Why.
    pub note: String,
    /// When.
    pub at: Timestamp,
}

impl StackLock {
    /// Why the lock holds a run, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        let colon = if self.note.is_empty() { "" } else { ": " };
        format!("{} has locked the stack{colon}{}", self.by, self.note)
    }

    /// Whether it is in the way of a run that these people triggered and confirmed.
    #[must_use]
    pub fn holds(&self, run_type: RunType, triggered_by: &str, confirmed_by: Option<&str>) -> bool {
        run_type.is_blocking() && self.by != triggered_by && confirmed_by != Some(&self.by)
    }

    /// The lock after a run's outcome became unknown: in the server's own name, which is nobody's, so that
    /// not even the runs of a person who had locked the stack go on before somebody has looked. That person's
    /// lock stays as words.
    #[must_use]
    pub fn of_an_unknown_outcome(present: Option<Self>, run: RunId, now: Timestamp) -> Self {
        let reason = format!("the outcome of run {run} is unknown");
        let by = SERVER.to_owned();
        match present {
            None => Self { by, note: reason, at: now },
            Some(lock) if lock.by == SERVER => {
                Self { by, note: format!("{}; {reason}", lock.note), at: lock.at }
            }
            Some(lock) => {
                let colon = if lock.note.is_empty() { "" } else { ": " };
                let note = format!("{reason}; {} had locked it{colon}{}", lock.by, lock.note);
                Self { by, note, at: lock.at }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SERVER, StackLock};
    use crate::{RunId, RunType, Timestamp};

    fn lock(by: &str, note: &str) -> StackLock {
        StackLock { by: by.to_owned(), note: note.to_owned(), at: Timestamp(1) }
    }

    #[test]
    fn a_lock_holds_blocking_runs_of_others_only() {
        let bobs = lock("bob", "");
        assert!(bobs.holds(RunType::Tracked, "ann", None));
        assert!(!bobs.holds(RunType::Proposed, "ann", None));
        assert!(!bobs.holds(RunType::Tracked, "bob", None));
        assert!(!bobs.holds(RunType::Tracked, "ann", Some("bob")));
    }

    #[test]
    fn an_unknown_outcome_takes_a_persons_lock_and_keeps_their_words() {
        let run: RunId = "01J00000000000000000000000".parse().unwrap();
        let locked = |present| StackLock::of_an_unknown_outcome(present, run, Timestamp(9));
        let first = locked(None);
        assert_eq!((first.by.as_str(), first.at), (SERVER, Timestamp(9)));
        assert_eq!(first.note, format!("the outcome of run {run} is unknown"));
        let second = locked(Some(first));
        assert!(second.note.ends_with(&format!("unknown; the outcome of run {run} is unknown")));
        let bobs = locked(Some(lock("bob", "migration")));
        assert_eq!((bobs.by.as_str(), bobs.at), (SERVER, Timestamp(1)));
        assert!(bobs.note.ends_with("unknown; bob had locked it: migration"), "{}", bobs.note);
        assert!(locked(Some(lock("bob", ""))).note.ends_with("; bob had locked it"));
    }
}

//! Whether a stage may be started: the table of step × container × `begun`.
//!
//! The mark decides, not the journal: a stage that has begun is only ever followed to its end, however
//! little is left of it. What has not begun may be made and started, as often as it takes.

use gantry_protocol::message::Step;

use crate::engine::State;

/// What comes next for a stage that has no ending yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Lay the workspace out.
    Prepare,
    /// Make the container.
    Create,
    /// Start the container that is there.
    Start,
    /// Follow it, or what it left, to its end. Never start it.
    Follow,
}

/// Decides by what is durable, what the engine shows and whether the mark is there.
#[must_use]
pub fn next(step: Step, container: Option<State>, begun: bool) -> Next {
    if begun || container == Some(State::Running) {
        return Next::Follow;
    }
    match (step, container) {
        (Step::Granted, _) => Next::Prepare,
        (Step::WorkspaceReady | Step::Creating | Step::Created | Step::Starting, None) => {
            Next::Create
        }
        (Step::WorkspaceReady | Step::Creating | Step::Created | Step::Starting, Some(_)) => {
            Next::Start
        }
        // It was started and made no mark: its end says why, and starting it again would say the same.
        (
            Step::Started
            | Step::Ended
            | Step::LogComplete
            | Step::Sealed
            | Step::ResultSent
            | Step::Acknowledged
            | Step::Removed,
            _,
        ) => Next::Follow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Option<State> = None;
    const CREATED: Option<State> = Some(State::Created);
    const RUNNING: Option<State> = Some(State::Running);
    const EXITED: Option<State> = Some(State::Exited { code: 137, is_out_of_memory: false });

    /// The table of `docs/protocol.md`, row by row: none, created, running, exited.
    #[test]
    fn what_has_not_begun_goes_on_from_its_step() {
        use Next::{Create, Follow, Prepare, Start};
        for (step, expected) in [
            (Step::Granted, [Prepare, Prepare, Follow, Prepare]),
            (Step::WorkspaceReady, [Create, Start, Follow, Start]),
            (Step::Creating, [Create, Start, Follow, Start]),
            (Step::Created, [Create, Start, Follow, Start]),
            (Step::Starting, [Create, Start, Follow, Start]),
            (Step::Started, [Follow, Follow, Follow, Follow]),
        ] {
            let actual = [NONE, CREATED, RUNNING, EXITED].map(|state| next(step, state, false));
            assert_eq!(actual, expected, "{step:?}");
        }
    }

    #[test]
    fn what_has_begun_is_never_made_or_started() {
        for step in [
            Step::Granted,
            Step::WorkspaceReady,
            Step::Creating,
            Step::Created,
            Step::Starting,
            Step::Started,
        ] {
            for state in [NONE, CREATED, RUNNING, EXITED] {
                assert_eq!(next(step, state, true), Next::Follow, "{step:?} {state:?}");
            }
        }
    }
}

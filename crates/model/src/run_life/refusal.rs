//! Why a run does not do what was asked of it, and what to ask instead.

use crate::RunState;

/// What was asked of a run does not fit its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {act} a run that is {state}{}", hint(.act, *.state))]
pub struct InvalidTransition {
    /// What was asked.
    pub act: &'static str,
    /// The state that it was in.
    pub state: RunState,
}

fn hint(act: &str, state: RunState) -> &'static str {
    match (act, state) {
        ("stop" | "confirm" | "discard", _) if state.is_terminal() => {
            ": it is over; trigger or retry it to run it again"
        }
        ("stop", RunState::Unconfirmed) => ": discard it instead",
        ("discard", RunState::Confirmed) => ": cancel it instead",
        ("discard", _) => ": stop it instead",
        ("confirm", _) => ": wait until it is UNCONFIRMED",
        _ => "",
    }
}

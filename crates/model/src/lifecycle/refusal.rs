//! Why a run does not do what was asked of it, and what to ask instead.

use std::fmt;

use crate::RunState;

/// What is asked of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAct {
    /// Nothing of its stack is in its way any more.
    MakeReady,
    /// A worker is asked to take its stage.
    Offer,
    /// A person lets it carry out its plan.
    Confirm,
    /// A person turns its plan down, or drops it before it began.
    Discard,
    /// A person stops it.
    Stop,
}

impl fmt::Display for RunAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakeReady => "make ready",
            Self::Offer => "offer",
            Self::Confirm => "confirm",
            Self::Discard => "discard",
            Self::Stop => "stop",
        })
    }
}

/// What was asked of a run does not fit its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {act} a run that is {state}{}", hint(*.act, *.state))]
pub struct InvalidTransition {
    /// What was asked.
    pub act: RunAct,
    /// The state that it was in.
    pub state: RunState,
}

fn hint(act: RunAct, state: RunState) -> &'static str {
    match act {
        RunAct::Stop | RunAct::Confirm | RunAct::Discard if state.is_terminal() => {
            ": it is over; trigger or retry it to run it again"
        }
        RunAct::Stop if state == RunState::Unconfirmed => ": discard it instead",
        RunAct::MakeReady | RunAct::Offer | RunAct::Stop => "",
        RunAct::Discard if state == RunState::Confirmed => ": cancel it instead",
        RunAct::Discard => ": stop it instead",
        RunAct::Confirm => ": wait until it is UNCONFIRMED",
    }
}

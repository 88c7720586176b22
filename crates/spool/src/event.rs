//! What the worker binary reports beside output.

use gantry_model::{MAX_LINEAGE, Phase};
use serde::{Deserialize, Serialize};

use crate::order::{MAX_OUTPUTS, MAX_PLAN, MAX_STATE};
use crate::{MAX_CARRIED, SideFile, SideName};

/// The longest text of a note and of a reason, in bytes.
pub const MAX_TEXT: usize = 4096;
/// The most state versions of one attempt: whoever follows the spool keeps a line of each.
pub const MAX_STATES: u64 = 4096;

/// Something that happened in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A phase's shell was started.
    PhaseBegan {
        /// Which phase.
        phase: Phase,
    },
    /// A phase's shell is gone, all its output is before this event.
    PhaseEnded {
        /// Which phase.
        phase: Phase,
        /// The shell's exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended the shell.
        signal: Option<i32>,
        /// How long it ran.
        duration_ms: u64,
    },
    /// The tool wrote a state version. The file is durable before this event.
    State {
        /// Counts the versions of this attempt from 1; [`crate::mark_stored`] answers it.
        number: u64,
        /// The state's own serial.
        serial: u64,
        /// The state's own lineage, at most [`MAX_LINEAGE`].
        lineage: String,
        /// The state itself.
        file: SideFile,
    },
    /// The plan as JSON.
    Plan {
        /// Where it is.
        file: SideFile,
    },
    /// The outputs as JSON.
    Outputs {
        /// Where they are.
        file: SideFile,
    },
    /// What hooks made of the environment, for the stage that follows.
    Environment {
        /// Where it is.
        file: SideFile,
    },
    /// The tool could not hand over its state and left it in a file.
    Errored {
        /// The collected copy.
        file: SideFile,
    },
    /// The tool left its state in a file that could not be copied here, so the only copy of it is in the
    /// workspace.
    Uncollected {
        /// Why, at most [`MAX_TEXT`], no secrets.
        reason: String,
    },
    /// Output was dropped here because the spool was full.
    Truncated {
        /// How much.
        bytes: u64,
    },
    /// The stage is being stopped: one interrupt, the grace, then the end.
    Stopping {
        /// Why.
        reason: StopReason,
    },
    /// The worker binary has something to say to whoever reads the log; one line, no secrets.
    Note {
        /// At most [`MAX_TEXT`].
        text: String,
    },
    /// The last frame of every spool.
    Ended {
        /// How it went.
        outcome: Outcome,
    },
}

impl Event {
    /// Whether it keeps to the bounds of the format. What comes of an event lives on in journals and
    /// messages, so a reader takes no other.
    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Self::State { number, lineage, file, .. } => {
                (1..=MAX_STATES).contains(number)
                    && lineage.len() <= MAX_LINEAGE
                    && file.is_bounded(SideName::State(*number), MAX_STATE)
            }
            Self::Plan { file } => file.is_bounded(SideName::Plan, MAX_PLAN),
            Self::Outputs { file } => file.is_bounded(SideName::Outputs, MAX_OUTPUTS),
            Self::Environment { file } => file.is_bounded(SideName::Environment, MAX_CARRIED),
            Self::Errored { file } => file.is_bounded(SideName::Errored, MAX_STATE),
            Self::Note { text: said }
            | Self::Uncollected { reason: said }
            | Self::Ended { outcome: Outcome::Failed { reason: said, .. } } => {
                said.len() <= MAX_TEXT
            }
            Self::PhaseBegan { .. }
            | Self::PhaseEnded { .. }
            | Self::Truncated { .. }
            | Self::Stopping { .. }
            | Self::Ended {
                outcome: Outcome::Succeeded | Outcome::Planned { .. } | Outcome::Stopped { .. },
            } => true,
        }
    }
}

/// Why a stage was stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody asked: the launcher, or the engine on its way down.
    Asked,
    /// It ran longer than the order allows.
    RunTimeout,
}

/// How a stage ended, as the worker binary saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Every phase succeeded.
    Succeeded,
    /// Every phase succeeded, and a plan said whether there is something to apply.
    Planned {
        /// Whether there is.
        has_changes: bool,
    },
    /// A phase failed, or could not be started.
    Failed {
        /// The phase, if it was one.
        phase: Option<Phase>,
        /// The exit code of its shell.
        code: Option<i32>,
        /// The signal that ended its shell.
        signal: Option<i32>,
        /// In words, at most [`MAX_TEXT`], no secrets.
        reason: String,
    },
    /// The stage was stopped.
    Stopped {
        /// The phase that ran, if one did.
        phase: Option<Phase>,
        /// Why.
        reason: StopReason,
    },
}

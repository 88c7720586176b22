//! What the worker binary reports beside output.

use gantry_model::Phase;
use serde::{Deserialize, Serialize};

use crate::SideFile;

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
        /// The state's own lineage, at most 256 bytes.
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
    /// The tool could not hand over its state and left it in a file.
    Errored {
        /// The collected copy.
        file: SideFile,
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
        /// At most 4096 bytes.
        text: String,
    },
    /// The last frame of every spool.
    Ended {
        /// How it went.
        outcome: Outcome,
    },
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
    /// Every phase ended with code 0.
    Succeeded,
    /// A phase failed, or could not be started.
    Failed {
        /// The phase, if it was one.
        phase: Option<Phase>,
        /// The exit code of its shell.
        code: Option<i32>,
        /// The signal that ended its shell.
        signal: Option<i32>,
        /// In words, at most 4096 bytes, no secrets.
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

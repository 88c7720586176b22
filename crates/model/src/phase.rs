//! The parts that a run consists of: stages, and phases within a stage.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Epoch, RunId};

/// One container of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// May look, may not change: may be started again elsewhere.
    Read,
    /// May change real infrastructure: is never started twice.
    Write,
}

impl Stage {
    /// The word for it in names, labels and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One step within a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Prepares the workspace.
    Initialize,
    /// Works out what would change.
    Plan,
    /// Makes the planned changes.
    Apply,
    /// Runs a task's command.
    Perform,
    /// Removes everything that the stack made.
    Destroy,
}

impl Phase {
    /// The word for it in names and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Plan => "plan",
            Self::Apply => "apply",
            Self::Perform => "perform",
            Self::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one signal by which a tool is asked to leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Interrupt {
    /// SIGINT, as a terminal sends it on ctrl-c.
    #[default]
    Sigint,
    /// SIGTERM.
    Sigterm,
}

/// A part of an attempt's log, read and stored by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// What the launcher says before the first phase: image, policy, workspace.
    Prepare,
    /// The output of [`Phase::Initialize`].
    Initialize,
    /// The output of [`Phase::Plan`].
    Plan,
    /// The output of [`Phase::Apply`].
    Apply,
    /// The output of [`Phase::Perform`].
    Perform,
    /// The output of [`Phase::Destroy`].
    Destroy,
    /// What the launcher says after the last phase: why a stage was stopped or what was lost.
    Conclude,
}

impl From<Phase> for Section {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Initialize => Self::Initialize,
            Phase::Plan => Self::Plan,
            Phase::Apply => Self::Apply,
            Phase::Perform => Self::Perform,
            Phase::Destroy => Self::Destroy,
        }
    }
}

/// One try at one stage of a run; what the control plane grants and the launcher owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The run.
    pub run: RunId,
    /// Which of its stages.
    pub stage: Stage,
    /// Which offer of it.
    pub epoch: Epoch,
}

impl Attempt {
    /// The name of the attempt's container and directory: `gantry-<run>-<stage>-<epoch>`, in lower case.
    #[must_use]
    pub fn name(&self) -> String {
        format!("gantry-{}-{}-{}", self.run, self.stage, self.epoch).to_lowercase()
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}, {} stage, epoch {}", self.run, self.stage, self.epoch)
    }
}

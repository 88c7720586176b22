//! What the journal's frames say.

use std::collections::BTreeMap;

use gantry_model::{Attempt, JournalId, MessageId, Section, WorkerId};
use gantry_protocol::message::{
    Closing, Delta, FromLauncher, Message as _, Output, StageOutcome, Step,
};
use gantry_spool::Position;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Entry, JournalError};

/// The longest body of a message that waits as it is.
const MAX_BODY: usize = 48 * 1024;
/// How many characters of a reason are kept.
const MAX_REASON: usize = 4096;

/// Where an attempt's log stands: everything before it is stored, everything behind it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The first frame of the spool of which something is not stored yet.
    pub position: Position,
    /// How many bytes of that frame's payload are stored.
    pub skip: u64,
    /// How many bytes of each section are stored.
    pub sections: BTreeMap<Section, u64>,
    /// The section that output belongs to.
    pub section: Option<Section>,
    /// Whether the launcher's closing lines would begin in the middle of a line.
    #[serde(default)]
    pub is_mid_line: bool,
}

impl Mark {
    /// How much of each section is stored.
    #[must_use]
    pub fn closings(&self) -> Vec<Closing> {
        let sections = self.sections.iter();
        sections.map(|(section, length)| Closing { section: *section, length: *length }).collect()
    }
}

/// A state version that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptState {
    /// The worker binary's number of it.
    pub n: u64,
    /// The `seq` of the message that reports it.
    pub seq: u64,
    /// The serial that the tool gave it.
    pub serial: u64,
    /// Lower-case hex of the payload's SHA-256: the predecessor of the next version.
    pub payload_sha256: String,
}

/// What a stage was allowed to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// What the engine calls the image by its content; empty if it does not say.
    pub image: String,
    /// Lower-case hex of the SHA-256 of its sealed spec.
    pub spec_sha256: String,
}

/// How a stage ended; what its result will say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// How.
    pub outcome: StageOutcome,
    /// What the plan would change.
    pub delta: Option<Delta>,
    /// The stack's outputs.
    pub outputs: Vec<Output>,
    /// Whether the workspace is kept for the write stage.
    pub keeps_workspace: bool,
}

/// Something to make durable.
#[derive(Debug)]
pub enum Change {
    /// A message that must not be lost.
    Queue {
        /// Its id.
        id: MessageId,
        /// What it says.
        message: FromLauncher,
    },
    /// The result of an attempt, which is thereby sent.
    Result {
        /// Which attempt.
        attempt: Attempt,
        /// The message's id.
        id: MessageId,
        /// What it says.
        message: FromLauncher,
    },
    /// Anything else.
    Record(Record),
}

impl Change {
    /// The attempt is ours.
    #[must_use]
    pub const fn granted(attempt: Attempt, boot: String) -> Self {
        Self::Record(Record::Granted { attempt, boot })
    }

    /// The attempt takes a step.
    #[must_use]
    pub const fn step(attempt: Attempt, step: Step) -> Self {
        Self::Record(Record::Step { attempt, step })
    }

    /// The attempt is to be stopped; the first reason holds.
    #[must_use]
    pub const fn stop(attempt: Attempt, reason: String) -> Self {
        Self::Record(Record::Stop { attempt, reason })
    }

    /// The policy is being evaluated, and a launcher was killed at that so many times less one.
    #[must_use]
    pub const fn policy_begun(attempt: Attempt, times: u32) -> Self {
        Self::Record(Record::PolicyBegun { attempt, times })
    }

    /// The attempt may run this spec in this image.
    #[must_use]
    pub const fn allowed(attempt: Attempt, image: String, spec_sha256: String) -> Self {
        Self::Record(Record::Allowed { attempt, allowed: Allowed { image, spec_sha256 } })
    }

    /// A state that the attempt wrote could not be kept: what holds it is not removed. The first
    /// reason holds.
    #[must_use]
    pub fn left(attempt: Attempt, reason: &str) -> Self {
        let reason = reason.chars().take(MAX_REASON).collect();
        Self::Record(Record::Left { attempt, reason })
    }

    /// More of the log is stored.
    #[must_use]
    pub const fn mark(attempt: Attempt, mark: Mark) -> Self {
        Self::Record(Record::Mark { attempt, mark })
    }

    /// A state version is stored.
    #[must_use]
    pub const fn state(attempt: Attempt, state: KeptState) -> Self {
        Self::Record(Record::State { attempt, state })
    }

    /// The stage has ended.
    #[must_use]
    pub fn ended(attempt: Attempt, mut ending: Ending) -> Self {
        ending.outcome.cut_reason(MAX_REASON);
        Self::Record(Record::Ended { attempt, ending: Box::new(ending) })
    }

    /// Nothing of the attempt is left.
    #[must_use]
    pub const fn removed(attempt: Attempt) -> Self {
        Self::Record(Record::Removed { attempt })
    }
}

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The journal begins.
    Opened {
        journal: JournalId,
        worker: WorkerId,
    },
    /// All that is known of an attempt, when the file is written anew.
    Entry(Box<Entry>),
    Granted {
        attempt: Attempt,
        boot: String,
    },
    Step {
        attempt: Attempt,
        step: Step,
    },
    Stop {
        attempt: Attempt,
        reason: String,
    },
    PolicyBegun {
        attempt: Attempt,
        times: u32,
    },
    Allowed {
        attempt: Attempt,
        allowed: Allowed,
    },
    Left {
        attempt: Attempt,
        reason: String,
    },
    Mark {
        attempt: Attempt,
        mark: Mark,
    },
    State {
        attempt: Attempt,
        state: KeptState,
    },
    Ended {
        attempt: Attempt,
        ending: Box<Ending>,
    },
    /// The result is queued, and the attempt has taken that step.
    Result {
        attempt: Attempt,
        queued: Box<Record>,
        seq: u64,
    },
    Removed {
        attempt: Attempt,
    },
    Queued {
        seq: u64,
        id: MessageId,
        kind: String,
        body: Box<RawValue>,
    },
    Acknowledged {
        up_to: u64,
    },
}

impl Record {
    pub(super) fn queued(
        seq: u64,
        id: MessageId,
        message: &FromLauncher,
    ) -> Result<Self, JournalError> {
        let mut body = message.body().map_err(JournalError::Unwritable)?;
        // What a policy or a container has to say may fit neither an envelope nor a frame.
        if body.get().len() > MAX_BODY {
            body = message.clone().shortened().body().map_err(JournalError::Unwritable)?;
        }
        Ok(Self::Queued { seq, id, kind: message.kind().to_owned(), body })
    }
}

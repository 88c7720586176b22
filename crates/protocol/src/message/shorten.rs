//! What becomes of a message of a launcher's that is too long for an envelope.
//!
//! Some of what launchers report comes from containers and policies, so nobody can be sure that it
//! fits. A message that never fits would hold up everything behind it in the journal for ever, so it
//! is cut instead: what people read gets shorter, what programs rely on stays.

use serde::Serialize;

use super::{
    Bye, Decision, Decline, FromLauncher, Heartbeat, MoreOutputs, Output, StageOutcome,
    StageResult, StateStored,
};

/// How many characters of a text stay.
const TEXT: usize = 1024;
/// How many characters of a denial, of a lineage and of an output's name stay.
const NAME: usize = 256;
/// How many bytes of JSON a list may have.
const LIST: usize = 32 * 1024;

impl FromLauncher {
    /// The same message with its free texts and lists cut, so that it fits an envelope. It is the same
    /// each time, so that a message that is sent again is sent as it was.
    #[must_use]
    pub fn shortened(self) -> Self {
        match self {
            Self::Heartbeat(Heartbeat { runs, is_healthy, note }) => {
                Heartbeat { runs, is_healthy, note: note.map(|note| cut(&note, TEXT)) }.into()
            }
            Self::Decline(Decline { attempt, reason }) => {
                Decline { attempt, reason: cut(&reason, TEXT) }.into()
            }
            Self::Bye(Bye { reason }) => Bye { reason: cut(&reason, TEXT) }.into(),
            Self::State(state) => {
                let lineage = cut(&state.lineage, NAME);
                StateStored { lineage, ..state }.into()
            }
            Self::Decision(decision) => shortened_decision(decision).into(),
            Self::Result(result) => shortened_result(result).into(),
            Self::Outputs(more) => {
                let outputs = without_values(more.outputs);
                MoreOutputs { outputs, ..more }.into()
            }
            // Each of their fields is bounded by what it is.
            other @ (Self::Hello(_)
            | Self::Claim(_)
            | Self::Phase(_)
            | Self::Segment(_)
            | Self::Workspace(_)
            | Self::NeedUrls(_)
            | Self::Gone(_)
            | Self::Ack(_)
            | Self::Unsupported(_)) => other,
        }
    }
}

fn shortened_decision(decision: Decision) -> Decision {
    let count = decision.denials.len();
    let mut denials = fitting(decision.denials.iter().map(|denial| cut(denial, NAME)));
    let more = count - denials.len();
    if more > 0 {
        denials.push(format!("and {more} more"));
    }
    Decision { denials, ..decision }
}

fn shortened_result(result: StageResult) -> StageResult {
    let outcome = match result.outcome {
        StageOutcome::Failed { reason, phase, code } => {
            StageOutcome::Failed { reason: cut(&reason, TEXT), phase, code }
        }
        StageOutcome::Stopped { reason } => StageOutcome::Stopped { reason: cut(&reason, TEXT) },
        StageOutcome::GivenBack { reason } => {
            StageOutcome::GivenBack { reason: cut(&reason, TEXT) }
        }
        StageOutcome::Unknown { reason } => StageOutcome::Unknown { reason: cut(&reason, TEXT) },
        whole @ (StageOutcome::Succeeded { .. } | StageOutcome::Denied) => whole,
    };
    StageResult { outcome, outputs: without_values(result.outputs), ..result }
}

fn without_values(outputs: Vec<Output>) -> Vec<Output> {
    fitting(outputs.into_iter().map(|output| Output {
        name: cut(&output.name, NAME),
        value: None,
        is_sensitive: output.is_sensitive,
    }))
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// As many of the first as fit into [`LIST`].
fn fitting<T: Serialize>(list: impl Iterator<Item = T>) -> Vec<T> {
    let mut room = LIST;
    list.take_while(|one| {
        let size = serde_json::to_string(one).map_or(usize::MAX, |json| json.len() + 1);
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    })
    .collect()
}

//! What people do to a run: confirm, discard, cancel, stop.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{StackOfRun, not_found};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, RunArgument};
use crate::follow::Seen;
use crate::output::Output;

const BRIEF: &str = "query($id:ID!){run(id:$id){logLength,stack{id},history{state}}}";

pub(super) enum Act {
    Confirm(Option<String>),
    Discard(Option<String>),
    Cancel,
    Stop(Option<String>),
}

#[derive(Deserialize)]
struct BriefAnswer {
    run: Option<Brief>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Brief {
    log_length: u64,
    stack: StackOfRun,
    history: Vec<Value>,
}

/// What became of the run.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct After {
    state: String,
    finished: bool,
    stop_by: Option<String>,
}

/// Does it to a run, and nothing after that.
pub(super) async fn once(
    client: &Client,
    run: &RunArgument,
    what: Act,
    output: Output,
) -> Result<Code, Failure> {
    let run = find::run(client, run).await?;
    act(client, &run, what, output, false).await?;
    Ok(Code::Done)
}

/// Does something to a run; answers what there was to see of it before.
pub(super) async fn act(
    client: &Client,
    run: &str,
    act: Act,
    output: Output,
    is_followed: bool,
) -> Result<Seen, Failure> {
    let answer: BriefAnswer = client.ask(BRIEF, json!({ "id": run })).await?;
    let brief = answer.run.ok_or_else(|| not_found(run))?;
    let (name, note) = match act {
        Act::Confirm(note) => ("runConfirm", Some(note)),
        Act::Discard(note) => ("runDiscard", Some(note)),
        Act::Cancel => ("runCancel", None),
        Act::Stop(note) => ("runStop", Some(note)),
    };
    let mut variables = json!({ "stack": brief.stack.id, "run": run });
    let (declared, passed) = match note {
        Some(note) => {
            variables["note"] = note.into();
            ("$note:String", ",note:$note")
        }
        None => ("", ""),
    };
    let query = format!(
        "mutation({declared}$run:ID!$stack:ID!){{{name}(stack:$stack,run:$run{passed}){{state,finished,stopBy}}}}"
    );
    let mut answer: BTreeMap<String, After> = client.ask(&query, variables).await?;
    let after = answer.remove(name).ok_or_else(|| not_found(run))?;
    if !is_followed {
        let value = json!({
            "id": run,
            "stack": brief.stack.id,
            "state": after.state,
            "stop_by": after.stop_by,
        });
        output.answer(&value, || after.to_text(run))?;
    }
    Ok(Seen { log: brief.log_length, states: brief.history.len() as u64 })
}

impl After {
    fn to_text(&self, run: &str) -> String {
        if self.stop_by.is_some() && !self.finished {
            return format!(
                "run {run} is {} and asked to stop: its tool is interrupted once and given time to leave\n\nsee how it ends with\n  gantry run logs {run} --follow",
                self.state
            );
        }
        format!("run {run} is {}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_asked_to_stop_says_so() {
        let after = |state: &str, finished| After {
            state: state.into(),
            finished,
            stop_by: Some("api::ann".into()),
        };
        let said = after("PLANNING", false).to_text("01R");
        assert!(said.starts_with("run 01R is PLANNING and asked to stop: "), "{said}");
        assert_eq!(after("CANCELED", true).to_text("01R"), "run 01R is CANCELED");
    }
}

//! `gantry run trigger`: starts a run, and says what it waits for.

use serde::Deserialize;
use serde_json::json;

use super::{Trigger, Type};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::follow::{Seen, follow, to_decide};
use crate::output::{self, Output};

const TRIGGER: &str =
    "mutation($stack:ID!$type:RunType){runTrigger(stack:$stack,runType:$type){id,state}}";
/// What can keep a new run of a stack waiting.
const WAITS: &str = "query($stack:ID!){stack(id:$stack){lockedBy,lockNote,runs{id,state,finished},\
    workerPool{name,workersCount}}}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TriggerAnswer {
    run_trigger: Triggered,
}

#[derive(Deserialize)]
struct Triggered {
    id: String,
    state: String,
}

pub(super) async fn trigger(
    client: &Client,
    arguments: Trigger,
    output: Output,
) -> Result<Code, Failure> {
    let variables = json!({ "stack": arguments.stack, "type": arguments.run_type.as_str() });
    let answer: TriggerAnswer = client.ask(TRIGGER, variables).await?;
    let Triggered { id, state } = answer.run_trigger;
    if arguments.follow {
        if output.is_json() {
            output.line(&json!({ "event": "run", "id": id, "stack": arguments.stack }))?;
        } else {
            output.note(&format!("-- run {id}"));
            note_waits(client, &arguments, &id, output).await;
        }
        return follow(client, &id, Seen::default(), output).await;
    }
    let value = json!({ "id": id, "stack": arguments.stack, "state": state });
    output.answer(&value, || {
        output::pairs(&[("run", id.clone()), ("state", state.clone())])
            + &format!("\nsee it with\n  gantry run logs {id} --follow")
    })?;
    if !output.is_json() {
        note_waits(client, &arguments, &id, output).await;
    }
    Ok(Code::Done)
}

#[derive(Deserialize)]
struct WaitsAnswer {
    stack: Option<Waits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waits {
    locked_by: Option<String>,
    lock_note: Option<String>,
    runs: Vec<OtherRun>,
    worker_pool: Option<PoolOfStack>,
}

#[derive(Deserialize)]
struct OtherRun {
    id: String,
    state: String,
    finished: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolOfStack {
    name: String,
    workers_count: i64,
}

/// Tells a person why a new run does not begin, where that is not a matter of moments.
async fn note_waits(client: &Client, arguments: &Trigger, run: &str, output: Output) {
    let variables = json!({ "stack": arguments.stack });
    // The run is there in any case; this is only a courtesy.
    let Ok(WaitsAnswer { stack: Some(stack) }) = client.ask(WAITS, variables).await else { return };
    for why in stack.reasons(&arguments.stack, arguments.run_type, run) {
        output.note(&format!("-- it waits: {why}"));
    }
}

impl Waits {
    fn reasons(&self, stack: &str, run_type: Type, run: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        if matches!(run_type, Type::Tracked) {
            if let Some(by) = &self.locked_by {
                let note = self.lock_note.as_deref().filter(|note| !note.is_empty());
                let note = note.map_or(String::new(), |note| format!(" ({note})"));
                reasons.push(format!(
                    "{by} has locked the stack{note}; `gantry stack unlock {stack}` lifts that"
                ));
            }
            let is_before = |it: &&OtherRun| it.id.as_str() < run && !it.finished;
            if let Some(other) = self.runs.iter().filter(is_before).min_by_key(|it| &it.id) {
                reasons.push(match other.state.as_str() {
                    "UNCONFIRMED" => {
                        format!("run {} is UNCONFIRMED; {}", other.id, to_decide(&other.id))
                    }
                    state => format!("run {} ({state}) goes first", other.id),
                });
            }
        }
        if let Some(pool) = self.worker_pool.as_ref().filter(|pool| pool.workers_count == 0) {
            reasons.push(format!(
                "no worker of pool {} is connected; start a `gantry-launcher` with its token and key",
                pool.name
            ));
        }
        reasons
    }
}

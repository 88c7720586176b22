//! `gantry run trigger` and `retry`: starts a run, and says what it waits for.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{StackOfRun, Wait, not_found};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::follow::{Seen, follow};
use crate::output::{self, Output};

/// The longest metadata that the server takes.
const MAX_METADATA: usize = 4096;
const TRIGGER: &str =
    "mutation($stack:ID!$type:RunType){runTrigger(stack:$stack,runType:$type){id,state}}";
const RETRY: &str = "mutation($run:ID!$stack:ID!){runRetry(stack:$stack,run:$run){id,state}}";
const TASK: &str =
    "mutation($command:String!$stack:ID!){taskCreate(stack:$stack,command:$command){id,state}}";
const OF: &str = "query($id:ID!){run(id:$id){stack{id}}}";
const WAITS: &str = "query($id:ID!){run(id:$id){waits{kind,reason,next}}}";

/// Arguments of `gantry run trigger`.
#[derive(Debug, Args)]
pub struct Trigger {
    /// The stack's id or name
    stack: String,
    /// What the run is for
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t = Type::Tracked)]
    run_type: Type,
    /// Text that is kept with the run and given to policies and hooks, such as JSON; ASCII, at most 4096 bytes
    #[arg(long, value_name = "TEXT", value_parser = metadata)]
    run_metadata: Option<String>,
    /// Print the log as it comes, until the run is UNCONFIRMED or over
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    /// Plans, and once confirmed applies
    Tracked,
    /// Shows what would change, and changes nothing
    Proposed,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tracked => "TRACKED",
            Self::Proposed => "PROPOSED",
        }
    }
}

/// Metadata travels in a header.
fn metadata(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_METADATA {
        return Err(format!("it has {} bytes: 1 to {MAX_METADATA} are possible", text.len()));
    }
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err("give printable ASCII in one line, such as JSON with \\u escapes".to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TriggerAnswer {
    run_trigger: Triggered,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetryAnswer {
    run_retry: Triggered,
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
    let stack = find::stack(client, &arguments.stack, Match::Prefix).await?;
    let variables = json!({ "stack": stack, "type": arguments.run_type.as_str() });
    let metadata = arguments.run_metadata.as_deref();
    let answer: TriggerAnswer = client.ask_with(TRIGGER, variables, metadata).await?;
    begun(client, answer.run_trigger, &stack, arguments.follow, output).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskAnswer {
    task_create: Triggered,
}

#[derive(Deserialize)]
struct OfAnswer {
    run: Option<Of>,
}

#[derive(Deserialize)]
struct Of {
    stack: StackOfRun,
}

pub(super) async fn retry(
    client: &Client,
    run: &str,
    is_followed: bool,
    output: Output,
) -> Result<Code, Failure> {
    let OfAnswer { run: of } = client.ask(OF, json!({ "id": run })).await?;
    let stack = of.ok_or_else(|| not_found(run))?.stack.id;
    let answer: RetryAnswer = client.ask(RETRY, json!({ "run": run, "stack": stack })).await?;
    begun(client, answer.run_retry, &stack, is_followed, output).await
}

/// Starts a task.
pub(super) async fn task(
    client: &Client,
    stack: &str,
    command: &str,
    is_followed: bool,
    output: Output,
) -> Result<Code, Failure> {
    let stack = find::stack(client, stack, Match::Whole).await?;
    let answer: TaskAnswer =
        client.ask(TASK, json!({ "stack": stack, "command": command })).await?;
    begun(client, answer.task_create, &stack, is_followed, output).await
}

/// Shows a run that was just started, or follows it.
async fn begun(
    client: &Client,
    Triggered { id, state }: Triggered,
    stack: &str,
    is_followed: bool,
    output: Output,
) -> Result<Code, Failure> {
    if is_followed {
        if output.is_json() {
            output.line(&json!({ "event": "run", "id": id, "stack": stack }))?;
        } else {
            output.note(&format!("-- run {id}"));
            note_waits(client, &id, output).await;
        }
        return follow(client, &id, Seen::default(), output).await;
    }
    let value: Value = json!({ "id": id, "stack": stack, "state": state });
    output.answer(&value, || {
        output::pairs(&[("run", id.clone()), ("state", state.clone())])
            + &format!("\nsee it with\n  gantry run logs {id} --follow")
    })?;
    if !output.is_json() {
        note_waits(client, &id, output).await;
    }
    Ok(Code::Done)
}

#[derive(Deserialize)]
struct WaitsAnswer {
    run: Option<Waits>,
}

#[derive(Deserialize)]
struct Waits {
    waits: Vec<Wait>,
}

/// Tells a person why a new run does not begin, where that is not a matter of moments.
async fn note_waits(client: &Client, run: &str, output: Output) {
    // The run is there in any case; this is only a courtesy.
    let Ok(WaitsAnswer { run: Some(run) }) = client.ask(WAITS, json!({ "id": run })).await else {
        return;
    };
    for wait in run.waits.iter().filter(|wait| wait.kind != "OFFERED") {
        output.note(&format!("-- it waits: {}", wait.to_text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_fits_into_a_header() {
        assert_eq!(metadata("{\"ticket\": 7}").as_deref(), Ok("{\"ticket\": 7}"));
        for wrong in ["", "a\nb", "größer", &"x".repeat(4097)] {
            assert!(metadata(wrong).is_err(), "{wrong}");
        }
    }
}

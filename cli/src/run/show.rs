//! `gantry run show`: a run, its history and what came of it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Delta, StackOfRun, Wait, delta_text, not_found};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, RunArgument};
use crate::output::{self, Output};

const SHOW: &str = "query($id:ID!){run(id:$id){id,type,state,title,createdAt,updatedAt,triggeredBy,note,\
    logLength,stack{id},delta{addCount,changeCount,deleteCount,importCount,moveCount,forgetCount},outputs{name,sensitive,value},\
    history{state,timestamp,note,username},waits{kind,reason,next},stopBy,worker,\
    userProvidedMetadata,\
    attempts{epoch,stage,worker,offeredAt,grantedAt,endedAt,outcome}}}";

#[derive(Deserialize)]
struct ShowAnswer {
    run: Option<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    id: String,
    r#type: String,
    state: String,
    title: String,
    created_at: i64,
    updated_at: i64,
    triggered_by: Option<String>,
    note: Option<String>,
    log_length: u64,
    stack: StackOfRun,
    delta: Option<Delta>,
    outputs: Vec<StackOutput>,
    /// Newest first.
    history: Vec<Change>,
    attempts: Vec<Attempt>,
    waits: Vec<Wait>,
    stop_by: Option<String>,
    worker: Option<String>,
    user_provided_metadata: Vec<String>,
}

#[derive(Deserialize)]
struct StackOutput {
    name: String,
    sensitive: bool,
    /// JSON.
    value: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    state: String,
    timestamp: i64,
    note: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    epoch: i64,
    stage: String,
    worker: String,
    offered_at: i64,
    granted_at: Option<i64>,
    ended_at: Option<i64>,
    outcome: Option<String>,
}

impl Run {
    fn to_json(&self) -> Value {
        let outputs: Map<String, Value> = self
            .outputs
            .iter()
            .map(|it| {
                let value = it.value.as_deref().and_then(|text| serde_json::from_str(text).ok());
                (it.name.clone(), value.unwrap_or(Value::Null))
            })
            .collect();
        json!({
            "id": self.id,
            "stack": self.stack.id,
            "type": self.r#type,
            "state": self.state,
            "title": self.title,
            "created": output::time(self.created_at),
            "updated": output::time(self.updated_at),
            "triggered_by": self.triggered_by,
            "note": self.note,
            "delta": self.delta.as_ref().map(Delta::to_json),
            "outputs": outputs,
            "log_length": self.log_length,
            "worker": self.worker,
            "stop_by": self.stop_by,
            "metadata": self.user_provided_metadata,
            "waits": self.waits.iter().map(Wait::to_json).collect::<Value>(),
            "history": self.history.iter().rev().map(Change::to_json).collect::<Value>(),
            "attempts": self.attempts.iter().map(Attempt::to_json).collect::<Value>(),
        })
    }

    fn to_text(&self) -> String {
        let mut about = vec![
            ("run", self.id.clone()),
            ("stack", self.stack.id.clone()),
            ("type", self.r#type.clone()),
            ("state", self.state.clone()),
            ("created", output::time(self.created_at)),
        ];
        if let Some(by) = &self.triggered_by {
            about.push(("triggered by", by.clone()));
        }
        if let Some(worker) = &self.worker {
            about.push(("worker", worker.clone()));
        }
        if let Some(note) = &self.note {
            about.push(("note", note.clone()));
        }
        if self.delta.is_some() {
            about.push(("changes", delta_text(self.delta.as_ref())));
        }
        for metadata in &self.user_provided_metadata {
            about.push(("metadata", metadata.clone()));
        }
        for wait in &self.waits {
            about.push(("waits", wait.to_text()));
        }
        let mut text = output::pairs(&about);
        let history: Vec<_> = self
            .history
            .iter()
            .rev()
            .map(|it| {
                let note = [it.username.clone(), it.note.clone()];
                let note: Vec<String> = note.into_iter().flatten().collect();
                [output::time(it.timestamp), it.state.clone(), note.join(": ")]
            })
            .collect();
        text = text + "\n" + &output::table(["AT", "STATE", "NOTE"], &history, "");
        if !self.outputs.is_empty() {
            let rows: Vec<_> = self.outputs.iter().map(StackOutput::row).collect();
            text = text + "\n" + &output::table(["OUTPUT", "VALUE"], &rows, "");
        }
        text
    }
}

impl StackOutput {
    fn row(&self) -> [String; 2] {
        let value = match (&self.value, self.sensitive) {
            (_, true) => "(sensitive)".to_owned(),
            (Some(value), false) => value.clone(),
            (None, false) => "(too large)".to_owned(),
        };
        [self.name.clone(), value]
    }
}

impl Change {
    fn to_json(&self) -> Value {
        json!({
            "state": self.state,
            "at": output::time(self.timestamp),
            "note": self.note,
            "by": self.username,
        })
    }
}

impl Attempt {
    fn to_json(&self) -> Value {
        json!({
            "epoch": self.epoch,
            "stage": self.stage,
            "worker": self.worker,
            "offered": output::time(self.offered_at),
            "granted": self.granted_at.map(output::time),
            "ended": self.ended_at.map(output::time),
            "outcome": self.outcome,
        })
    }
}

pub(super) async fn show(
    client: &Client,
    run: &RunArgument,
    output: Output,
) -> Result<Code, Failure> {
    let run = find::run(client, run).await?;
    let answer: ShowAnswer = client.ask(SHOW, json!({ "id": run })).await?;
    let found = answer.run.ok_or_else(|| not_found(&run))?;
    output.answer(&found.to_json(), || found.to_text())?;
    Ok(Code::Done)
}

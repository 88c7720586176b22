//! `gantry run list`: a stack's runs, newest first.

use gantry_model::RunId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Delta, delta_text, stack_not_found};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::{self, Output};

/// As many runs as the server lists at a time.
const PAGE: usize = 50;
const LIST: &str = "query($before:ID$stack:ID!){stack(id:$stack)\
    {runs(before:$before){...listed}proposedRuns(before:$before){...listed}}}\
    fragment listed on Run\
    {id,type,state,title,createdAt,triggeredBy,delta{addCount,changeCount,deleteCount,importCount,moveCount,forgetCount}}";

#[derive(Deserialize)]
struct ListAnswer {
    stack: Option<Runs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runs {
    runs: Vec<ListedRun>,
    proposed_runs: Vec<ListedRun>,
}

impl Runs {
    /// The newest of both, newest first: ids rise with time.
    fn page(mut self) -> Vec<ListedRun> {
        self.runs.append(&mut self.proposed_runs);
        self.runs.sort_by(|one, other| other.id.cmp(&one.id));
        self.runs.truncate(PAGE);
        self.runs
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedRun {
    id: String,
    r#type: String,
    state: String,
    title: String,
    created_at: i64,
    triggered_by: Option<String>,
    delta: Option<Delta>,
}

pub(super) async fn list(
    client: &Client,
    stack: &str,
    before: Option<RunId>,
    output: Output,
) -> Result<Code, Failure> {
    let variables = json!({ "stack": stack, "before": before.map(|it| it.to_string()) });
    let answer: ListAnswer = client.ask(LIST, variables).await?;
    let runs = answer.stack.ok_or_else(|| stack_not_found(stack))?.page();
    let values: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "id": run.id,
                "type": run.r#type,
                "state": run.state,
                "title": run.title,
                "created": output::time(run.created_at),
                "triggered_by": run.triggered_by,
                "delta": run.delta.as_ref().map(Delta::to_json),
            })
        })
        .collect();
    output.answer(&values, || {
        let rows: Vec<_> = runs
            .iter()
            .map(|run| {
                let [id, kind, state] = [&run.id, &run.r#type, &run.state].map(Clone::clone);
                [id, kind, state, delta_text(run.delta.as_ref()), output::time(run.created_at)]
            })
            .collect();
        let none = match before {
            Some(before) => format!("no runs before {before}"),
            None => format!("no runs yet: start one with `gantry run trigger {stack}`"),
        };
        let table = output::table(["ID", "TYPE", "STATE", "CHANGES", "CREATED"], &rows, &none);
        match runs.last() {
            Some(last) if runs.len() >= PAGE => {
                format!("{table}\nolder ones\n  gantry run list {stack} --before {}", last.id)
            }
            Some(_) | None => table,
        }
    })?;
    Ok(Code::Done)
}

//! `gantry run list`: runs of a stack or of all, newest first.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Delta, StackOfRun, delta_text, stack_not_found};
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match, RunArgument};
use crate::output::{self, Output};

/// As many runs as the server lists at a time.
const PAGE: usize = 50;
const OF_STACK: &str = "query($before:ID$stack:ID!){stack(id:$stack)\
    {runs(before:$before){...listed}proposedRuns(before:$before){...listed}}}";
const OF_ALL: &str = "query($before:ID){runs(before:$before){...listed}}";
const LISTED: &str = " fragment listed on Run\
    {id,type,state,title,createdAt,triggeredBy,stack{id},\
    delta{addCount,changeCount,deleteCount,importCount,moveCount,forgetCount}}";

#[derive(Deserialize)]
struct OfStack {
    stack: Option<Runs>,
}

#[derive(Deserialize)]
struct OfAll {
    runs: Vec<ListedRun>,
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
    stack: StackOfRun,
    delta: Option<Delta>,
}

impl ListedRun {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "stack": self.stack.id,
            "type": self.r#type,
            "state": self.state,
            "title": self.title,
            "created": output::time(self.created_at),
            "triggered_by": self.triggered_by,
            "delta": self.delta.as_ref().map(Delta::to_json),
        })
    }

    fn row(&self) -> [String; 6] {
        let [id, stack, kind, state] =
            [&self.id, &self.stack.id, &self.r#type, &self.state].map(Clone::clone);
        [id, stack, kind, state, delta_text(self.delta.as_ref()), output::time(self.created_at)]
    }
}

pub(super) async fn list(
    client: &Client,
    stack: Option<&str>,
    before: Option<&RunArgument>,
    output: Output,
) -> Result<Code, Failure> {
    let before = match before {
        Some(before) => Some(find::run(client, before).await?),
        None => None,
    };
    let stack = match stack {
        Some(stack) => Some(find::stack(client, stack, Match::Prefix).await?),
        None => None,
    };
    let runs = if let Some(stack) = &stack {
        let variables = json!({ "stack": stack, "before": before });
        let answer: OfStack = client.ask(&[OF_STACK, LISTED].concat(), variables).await?;
        answer.stack.ok_or_else(|| stack_not_found(stack))?.page()
    } else {
        let query = [OF_ALL, LISTED].concat();
        let OfAll { runs } = client.ask(&query, json!({ "before": before })).await?;
        runs
    };
    let values: Vec<Value> = runs.iter().map(ListedRun::to_json).collect();
    output.answer(&values, || {
        let rows: Vec<_> = runs.iter().map(ListedRun::row).collect();
        let named = stack.as_deref();
        let none = if let Some(before) = &before {
            format!("no runs before {before}")
        } else {
            let stack = named.unwrap_or("STACK");
            format!("no runs yet: start one with `gantry run trigger {stack}`")
        };
        let head = ["ID", "STACK", "TYPE", "STATE", "CHANGES", "CREATED"];
        let table = output::table(head, &rows, &none);
        match runs.last() {
            Some(last) if runs.len() >= PAGE => {
                let stack = named.map_or(String::new(), |stack| format!(" {stack}"));
                format!("{table}\nolder ones\n  gantry run list{stack} --before {}", last.id)
            }
            Some(_) | None => table,
        }
    })?;
    Ok(Code::Done)
}

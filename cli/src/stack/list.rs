//! `gantry stack list`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Named;
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::{self, Output};
use crate::source::Source;

const LIST: &str = "{stacks{id,name,state,labels,autodeploy,createdAt,lockedBy,lockNote,workerPool{id,name},\
    source{id,sha256,size,author,message,createdAt}}}";

#[derive(Deserialize)]
struct ListAnswer {
    stacks: Vec<Stack>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stack {
    id: String,
    name: String,
    state: String,
    labels: Vec<String>,
    autodeploy: bool,
    created_at: i64,
    locked_by: Option<String>,
    lock_note: Option<String>,
    worker_pool: Option<Named>,
    source: Option<Source>,
}

impl Stack {
    /// Who has locked it, and why.
    fn lock(&self) -> String {
        let note = self.lock_note.as_deref().filter(|note| !note.is_empty());
        match (self.locked_by.as_deref(), note) {
            (None, _) => String::new(),
            (Some(by), None) => format!("locked by {by}"),
            (Some(by), Some(note)) => format!("locked by {by}: {note}"),
        }
    }
}

pub(super) async fn list(client: &Client, output: Output) -> Result<Code, Failure> {
    let ListAnswer { stacks } = client.ask(LIST, json!({})).await?;
    let values: Vec<Value> = stacks
        .iter()
        .map(|stack| {
            json!({
                "id": stack.id,
                "name": stack.name,
                "state": stack.state,
                "labels": stack.labels,
                "autodeploy": stack.autodeploy,
                "created": output::time(stack.created_at),
                "locked_by": stack.locked_by,
                "lock_note": stack.lock_note,
                "pool": stack.worker_pool.as_ref().map(|pool| &pool.id),
                "source": stack.source.as_ref().map(Source::to_json),
            })
        })
        .collect();
    output.answer(&values, || {
        let rows: Vec<_> = stacks
            .iter()
            .map(|stack| {
                let pool = stack.worker_pool.as_ref().map(|pool| pool.name.clone());
                let [id, name, state] = [&stack.id, &stack.name, &stack.state].map(Clone::clone);
                let created = output::time(stack.created_at);
                [id, name, state, pool.unwrap_or_default(), created, stack.lock()]
            })
            .collect();
        let none = "no stacks yet: make one with `gantry stack create`";
        output::table(["ID", "NAME", "STATE", "POOL", "CREATED", "NOTE"], &rows, none)
    })?;
    Ok(Code::Done)
}

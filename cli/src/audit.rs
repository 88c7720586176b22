//! `gantry audit`: who changed what.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Failure};
use crate::output::{self, Output};

/// As many entries as the server lists at a time.
const PAGE: usize = 100;
const LIST: &str =
    "query($before:ID){audit(before:$before){id,createdAt,actor,action,subject,detail}}";

/// Arguments of `gantry audit`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only entries before this one
    #[arg(long, value_name = "ENTRY")]
    before: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    audit: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    created_at: i64,
    actor: String,
    action: String,
    subject: String,
    detail: String,
}

impl Entry {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "at": output::time(self.created_at),
            "by": self.actor,
            "action": self.action,
            "subject": self.subject,
            "detail": self.detail,
        })
    }
}

/// Lists what was changed, newest first.
pub async fn perform(
    arguments: Arguments,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    let Answer { audit } = client.ask(LIST, json!({ "before": arguments.before })).await?;
    let values: Vec<Value> = audit.iter().map(Entry::to_json).collect();
    output.answer(&values, || {
        let rows: Vec<_> = audit
            .iter()
            .map(|it| {
                let [by, action, subject, detail] =
                    [&it.actor, &it.action, &it.subject, &it.detail].map(Clone::clone);
                [output::time(it.created_at), by, action, subject, detail]
            })
            .collect();
        let table =
            output::table(["AT", "BY", "ACTION", "SUBJECT", "DETAIL"], &rows, "no changes yet");
        match audit.last() {
            Some(last) if audit.len() >= PAGE => {
                format!("{table}\nolder ones\n  gantry audit --before {}", last.id)
            }
            Some(_) | None => table,
        }
    })?;
    Ok(Code::Done)
}

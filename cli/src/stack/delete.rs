//! `gantry stack delete`.

use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::Output;

const DELETE: &str = "mutation($destroyResources:Boolean!$id:ID!){stackDelete(id:$id,destroyResources:$destroyResources){id,name}}";

pub(super) async fn delete(
    client: &Client,
    stack: &str,
    is_meant: bool,
    output: Output,
) -> Result<Code, Failure> {
    let id = find::stack(client, stack, Match::Whole).await?;
    if !is_meant {
        return Err(Failure::usage(format!(
            "stack {id} would be gone for good, and what it made would stay without it"
        ))
        .next(format!(
            "keep its state with `gantry state pull {id} --sealed -o {id}.age`, then `gantry stack delete {id} --yes`"
        )));
    }
    let variables = json!({ "id": id, "destroyResources": false });
    let answer: Value = client.ask(DELETE, variables).await?;
    output.answer(&answer["stackDelete"], || {
        format!("stack {id} is deleted; what it made is still there")
    })?;
    Ok(Code::Done)
}

//! `gantry stack lock` and `unlock`.

use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::find::{self, Match};
use crate::output::Output;

const LOCK: &str = "mutation($note:String$stack:ID!){stackLock(id:$stack,note:$note){id,lockedBy}}";
const UNLOCK: &str = "mutation($stack:ID!){stackUnlock(id:$stack){id}}";

pub(super) async fn lock(
    client: &Client,
    stack: &str,
    note: Option<String>,
    output: Output,
) -> Result<Code, Failure> {
    let stack = find::stack(client, stack, Match::Prefix).await?;
    let answer: Value = client.ask(LOCK, json!({ "stack": stack, "note": note })).await?;
    let by = &answer["stackLock"]["lockedBy"];
    output.answer(&json!({ "id": stack, "locked_by": by }), || {
        let by = by.as_str().unwrap_or("you");
        format!(
            "stack {stack} is locked by {by}: what a worker has goes on, all else waits\n\nlift it with\n  gantry stack unlock {stack}"
        )
    })?;
    Ok(Code::Done)
}

pub(super) async fn unlock(client: &Client, stack: &str, output: Output) -> Result<Code, Failure> {
    let stack = find::stack(client, stack, Match::Prefix).await?;
    let _unlocked: Value = client.ask(UNLOCK, json!({ "stack": stack })).await?;
    output.answer(&json!({ "id": stack, "locked_by": null }), || {
        format!("stack {stack} is not locked")
    })?;
    Ok(Code::Done)
}

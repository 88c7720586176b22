//! `gantry state rollback`: goes back to an older version, or takes an orphaned one.

use serde_json::{Value, json};

use super::versions;
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::Output;

const ROLL_BACK: &str =
    "mutation($stack:ID!$version:ID!){stateRollback(stack:$stack,version:$version){id}}";

/// Makes `version` the stack's current state.
pub(super) async fn roll_back(
    client: &Client,
    stack: &str,
    version: &str,
    output: Output,
) -> Result<Code, Failure> {
    let version = versions::find(client, stack, version).await?;
    let variables = json!({ "stack": stack, "version": version.id });
    let _rolled: Value = client.ask(ROLL_BACK, variables).await?;
    let value = json!({ "stack": stack, "version": version.id, "serial": version.serial });
    output.answer(&value, || {
        let (serial, id) = (version.serial, &version.id);
        if version.current {
            return format!("version {serial} ({id}) is the state of stack {stack} already");
        }
        format!(
            "the next run of stack {stack} begins with version {serial} ({id})\n\nsee what it would change with\n  gantry run trigger {stack} --follow"
        )
    })?;
    Ok(Code::Done)
}

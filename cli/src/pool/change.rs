//! What happens to a pool after it was made: new words for it, a new certificate, its end.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure, list_of};
use crate::find::{self, Match};
use crate::output::{self, Output};
use crate::{file, keys};

/// Arguments of `gantry pool set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The pool's id or name
    pool: String,
    /// A new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the pool is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Its labels, in the place of those it has; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Option<Vec<String>>,
}

/// Arguments of `gantry pool reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// The pool's id or name, whole
    pool: String,
    /// The pool's private key, to which secrets and states of its stacks are sealed
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The key is another one than the pool has now: launchers open what was sealed before with the old
    /// one, in `GANTRY_FORMER_POOL_KEYS`
    #[arg(long)]
    another_key: bool,
    /// Where to write the new token that launchers start with; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    token_out: PathBuf,
}

const UPDATE: &str = "mutation($description:String$id:ID!$labels:[String!]$name:String){workerPoolUpdate(id:$id,\
    name:$name,description:$description,labels:$labels){id,name}}";
const RECIPIENTS: &str = "query($id:ID!){workerPool(id:$id){name,recipients{kind,fingerprint}}}";
const RESET: &str = "mutation($csr:String!$id:ID!){workerPoolReset(id:$id,certificateSigningRequest:$csr)\
    {id,name,config}}";
const SEALED: &str = "{stacks{id,secretsVersion,workerPool{id},stateVersion{serial}}}";
const DELETE: &str = "mutation($id:ID!){workerPoolDelete(id:$id){id,name}}";

pub(super) async fn set(client: &Client, arguments: Set, output: Output) -> Result<Code, Failure> {
    if arguments.name.is_none() && arguments.description.is_none() && arguments.labels.is_none() {
        return Err(
            Failure::usage("nothing is to change").next("give --name, --description or --label")
        );
    }
    let id = find::pool(client, &arguments.pool, Match::Prefix).await?;
    let variables = json!({
        "id": id,
        "name": arguments.name,
        "description": arguments.description,
        "labels": arguments.labels,
    });
    let answer: Value = client.ask(UPDATE, variables).await?;
    let pool = &answer["workerPoolUpdate"];
    output.answer(pool, || {
        let name = pool["name"].as_str().unwrap_or_default();
        format!("pool {} is changed", output::named(name, &id))
    })?;
    Ok(Code::Done)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecipientsAnswer {
    worker_pool: PoolRecipients,
}

#[derive(Deserialize)]
struct PoolRecipients {
    name: String,
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
struct Recipient {
    kind: String,
    fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResetAnswer {
    worker_pool_reset: PoolReset,
}

#[derive(Deserialize)]
struct PoolReset {
    id: String,
    name: String,
    config: String,
}

#[derive(Deserialize)]
struct StacksAnswer {
    stacks: Vec<SealedStack>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealedStack {
    id: String,
    secrets_version: i64,
    worker_pool: Option<OfPool>,
    state_version: Option<Value>,
}

#[derive(Deserialize)]
struct OfPool {
    id: String,
}

/// The stacks of a pool that have something sealed to its key.
async fn sealed(client: &Client, pool: &str) -> Result<Vec<String>, Failure> {
    let StacksAnswer { stacks } = client.ask(SEALED, json!({})).await?;
    let is_its = |it: &SealedStack| it.worker_pool.as_ref().is_some_and(|of| of.id == pool);
    let has_any = |it: &SealedStack| it.secrets_version > 0 || it.state_version.is_some();
    Ok(stacks.into_iter().filter(|it| is_its(it) && has_any(it)).map(|it| it.id).collect())
}

/// A new certificate, for the key that the pool has unless another one is meant.
pub(super) async fn reset(
    client: &Client,
    arguments: Reset,
    output: Output,
) -> Result<Code, Failure> {
    let id = find::pool(client, &arguments.pool, Match::Whole).await?;
    file::must_be_free(&arguments.token_out)?;
    let key = keys::read(&arguments.key)?;
    let RecipientsAnswer { worker_pool: pool } =
        client.ask(RECIPIENTS, json!({ "id": id })).await?;
    let fingerprint = key.public().fingerprint().to_string();
    let is_its = |it: &Recipient| it.kind == "POOL" && it.fingerprint == fingerprint;
    if !arguments.another_key && !pool.recipients.iter().any(is_its) {
        let sealed = sealed(client, &id).await?;
        let stacks = if sealed.is_empty() {
            "nothing is sealed to that yet".to_owned()
        } else {
            let named = list_of(sealed.iter().map(String::as_str));
            format!("secrets or states of {named} are sealed to that")
        };
        return Err(Failure::new(format!(
            "{} is not the present private key of pool {}, and {stacks}",
            arguments.key.display(),
            pool.name
        ))
        .next("give the present key; or --another-key, and keep the old one in GANTRY_FORMER_POOL_KEYS of the launchers"));
    }
    let request = keys::request(&key)?;
    let variables = json!({ "id": id, "csr": request.to_base64() });
    let ResetAnswer { worker_pool_reset: reset } = client.ask(RESET, variables).await?;
    file::create(&arguments.token_out, reset.config.as_bytes()).map_err(|failure| {
        failure.next(format!("the pool is reset; its token is the `config` of pool {}", reset.id))
    })?;
    let value = json!({ "id": reset.id, "name": reset.name, "token_file": arguments.token_out });
    output.answer(&value, || {
        let token = arguments.token_out.display();
        format!(
            "pool {} is reset: its old token is worth nothing any more\n\ngive its launchers the new one, and start them again\n  {token}",
            output::named(&reset.name, &reset.id)
        )
    })?;
    Ok(Code::Done)
}

pub(super) async fn delete(
    client: &Client,
    pool: &str,
    is_meant: bool,
    output: Output,
) -> Result<Code, Failure> {
    let id = find::pool(client, pool, Match::Whole).await?;
    if !is_meant {
        return Err(Failure::usage(format!("pool {pool} would be gone for good"))
            .next(format!("`gantry pool delete {pool} --yes` does it; its launchers then exit")));
    }
    let answer: Value = client.ask(DELETE, json!({ "id": id })).await?;
    let deleted = &answer["workerPoolDelete"];
    output.answer(deleted, || {
        let name = deleted["name"].as_str().unwrap_or_default();
        format!("pool {} is deleted: its token is worth nothing any more", output::named(name, &id))
    })?;
    Ok(Code::Done)
}

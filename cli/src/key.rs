//! `gantry key`: API keys, with which people and programs use the server.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::client::Client;
use crate::config::{Credentials, Environment, Kept};
use crate::failure::{Code, Explain as _, Failure};
use crate::output::{self, Output};
use crate::{file, find};

/// `gantry key …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an API key and write it to a file, which `gantry login --from` reads.
    Create(Create),
    /// List all API keys, revoked ones included.
    List,
    /// Make an API key worth nothing: its sessions end at once.
    Revoke {
        /// The key's id or name, whole
        key: String,
    },
}

/// Arguments of `gantry key create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The key's name: runs, locks and the audit show it
    name: String,
    /// Where to write address, key and the certificates to trust; an existing file is never overwritten
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: PathBuf,
}

const CREATE: &str =
    "mutation($name:String!){apiKeyCreate(input:{name:$name,admin:true}){id,name,secret}}";
const LIST: &str = "{apiKeys{id,name,creator,createdAt,lastUsedAt,revokedAt}}";
const REVOKE: &str = "mutation($id:ID!){apiKeyDelete(id:$id){id,name}}";

/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let credentials = Credentials::find(environment)?;
    let ca = credentials.ca.clone();
    let client = Client::new(credentials)?;
    match command {
        Command::Create(arguments) => create(&client, &arguments, ca, output).await,
        Command::List => list(&client, output).await,
        Command::Revoke { key } => revoke(&client, &key, output).await,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateAnswer {
    api_key_create: Created,
}

#[derive(Deserialize)]
struct Created {
    id: String,
    name: String,
    secret: Zeroizing<String>,
}

async fn create(
    client: &Client,
    arguments: &Create,
    ca: Option<String>,
    output: Output,
) -> Result<Code, Failure> {
    file::must_be_free(&arguments.out)?;
    let answer: CreateAnswer = client.ask(CREATE, json!({ "name": arguments.name })).await?;
    let Created { id, name, secret } = answer.api_key_create;
    let kept =
        Kept { endpoint: client.endpoint().to_owned(), key_id: id.clone(), key_secret: secret, ca };
    let content = serde_json::to_vec_pretty(&kept)
        .map(Zeroizing::new)
        .or_say(|| "cannot write the key".into())?;
    file::create(&arguments.out, &content).map_err(|failure| {
        failure.next(format!(
            "the key exists and its secret is lost: `gantry key revoke {id}`, then make another one"
        ))
    })?;
    let value = json!({ "id": id, "name": name, "file": arguments.out });
    output.answer(&value, || {
        let path = arguments.out.display().to_string();
        output::pairs(&[("API key", output::named(&name, &id)), ("file", path.clone())])
            + &format!("\nuse it with\n  gantry login --from {}", output::shell_word(&path))
    })?;
    Ok(Code::Done)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    api_keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    name: String,
    creator: String,
    created_at: i64,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
}

async fn list(client: &Client, output: Output) -> Result<Code, Failure> {
    let ListAnswer { api_keys: keys } = client.ask(LIST, json!({})).await?;
    let values: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "id": key.id,
                "name": key.name,
                "created": output::time(key.created_at),
                "created_by": key.creator,
                "last_used": key.last_used_at.map(output::time),
                "revoked": key.revoked_at.map(output::time),
            })
        })
        .collect();
    output.answer(&values, || {
        let time = |at: Option<i64>| at.map_or(String::new(), output::time);
        let rows: Vec<_> = keys
            .iter()
            .map(|key| {
                let [id, name, creator] = [&key.id, &key.name, &key.creator].map(Clone::clone);
                [
                    id,
                    name,
                    output::time(key.created_at),
                    creator,
                    time(key.last_used_at),
                    time(key.revoked_at),
                ]
            })
            .collect();
        let head = ["ID", "NAME", "CREATED", "BY", "LAST USED", "REVOKED"];
        output::table(head, &rows, "no API keys")
    })?;
    Ok(Code::Done)
}

async fn revoke(client: &Client, key: &str, output: Output) -> Result<Code, Failure> {
    let id = find::key(client, key).await?;
    let answer: Value = client.ask(REVOKE, json!({ "id": id })).await?;
    let revoked = &answer["apiKeyDelete"];
    output.answer(revoked, || {
        let name = revoked["name"].as_str().unwrap_or_default();
        format!("API key {} is worth nothing any more", output::named(name, &id))
    })?;
    Ok(Code::Done)
}

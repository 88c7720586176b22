//! `gantry pool create`: a pool, and its key, which is made here and stays here.
//!
//! The server gets a certificate signing request and answers with the token that launchers start with.

use std::path::{Path, PathBuf};

use clap::Args;
use gantry_protocol::CertificateRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::{self, Output};
use crate::{file, keys};

/// Arguments of `gantry pool create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The pool's name
    name: String,
    /// A certificate signing request made elsewhere, as by `openssl req -new -newkey rsa:4096
    /// -nodes`; no key is made then
    #[arg(long, value_name = "FILE", conflicts_with = "key_out")]
    csr: Option<PathBuf>,
    /// Where to write the pool's new private key; an existing file is never overwritten
    /// [default: NAME.key]
    #[arg(long, value_name = "FILE")]
    key_out: Option<PathBuf>,
    /// Where to write the token that launchers start with [default: NAME.token]
    #[arg(long, value_name = "FILE")]
    token_out: Option<PathBuf>,
    /// Where to write the recovery key, which the first pool of a server makes. It opens state and
    /// secrets when a pool's key is lost: keep it offline
    #[arg(long, value_name = "FILE", default_value = "recovery.key")]
    recovery_out: PathBuf,
    /// Make no recovery key: what is sealed for a pool is lost with that pool's key
    #[arg(long, conflicts_with = "recovery_out")]
    no_recovery: bool,
    /// What the pool is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
}

const RECOVERY: &str = "{recoveryKey{fingerprint}}";
const SET_RECOVERY: &str =
    "mutation($publicKey:String!){recoveryKeySet(publicKey:$publicKey){fingerprint}}";
const CREATE: &str = "mutation($csr:String!$description:String$labels:[String!]$name:String!){\
    workerPoolCreate(name:$name,certificateSigningRequest:$csr,description:$description,labels:$labels)\
    {id,name,config}}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecoveryAnswer {
    recovery_key: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateAnswer {
    worker_pool_create: Created,
}

#[derive(Deserialize)]
struct Created {
    id: String,
    name: String,
    config: String,
}

/// Where the files of a new pool go; all of them are free.
struct Files {
    key: Option<PathBuf>,
    token: PathBuf,
    recovery: Option<PathBuf>,
}

pub(super) async fn create(
    client: &Client,
    arguments: Create,
    output: Output,
) -> Result<Code, Failure> {
    let answer: RecoveryAnswer = client.ask(RECOVERY, json!({})).await?;
    let has_recovery = answer.recovery_key.is_some();
    let files = files(&arguments, has_recovery)?;
    let request = match (&arguments.csr, &files.key) {
        (Some(csr), _) => keys::read_request(csr)?,
        (None, Some(path)) => {
            output.note("making the pool's key, RSA with 4096 bits");
            keys::request(&keys::make(path)?)?
        }
        (None, None) => unreachable!("without a request there is a path for the key"),
    };
    if let Some(path) = &files.recovery {
        set_recovery(client, path, output).await?;
    } else if !has_recovery {
        output.note("without a recovery key, state and secrets are lost with the pool's key");
    }
    let pool = match create_pool(client, &arguments, &request).await {
        Ok(pool) => pool,
        Err(failure) => {
            if let Some(path) = &files.recovery {
                let path = path.display();
                output.note(&format!("the recovery key is made and holds: keep {path} offline"));
            }
            return Err(tidy(failure, files.key.as_deref()));
        }
    };
    file::create(&files.token, pool.config.as_bytes()).map_err(|failure| {
        failure
            .next(format!("the pool exists as {}; its token is its `config` in the API", pool.id))
    })?;
    let answer = json!({
        "id": pool.id,
        "name": pool.name,
        "key_file": files.key,
        "token_file": files.token,
        "recovery_file": files.recovery,
    });
    output.answer(&answer, || created_text(&pool, &files, arguments.csr.as_deref()))?;
    Ok(Code::Done)
}

fn files(arguments: &Create, has_recovery: bool) -> Result<Files, Failure> {
    let stem: String = arguments
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect();
    let named = |ending: &str| PathBuf::from(format!("{}.{ending}", stem.trim_start_matches('.')));
    let key = match (&arguments.csr, &arguments.key_out) {
        (Some(_), _) => None,
        (None, Some(path)) => Some(path.clone()),
        (None, None) => Some(named("key")),
    };
    let token = arguments.token_out.clone().unwrap_or_else(|| named("token"));
    let makes_recovery = !has_recovery && !arguments.no_recovery;
    let recovery = makes_recovery.then(|| arguments.recovery_out.clone());
    for path in key.iter().chain([&token]).chain(recovery.iter()) {
        file::must_be_free(path)?;
    }
    Ok(Files { key, token, recovery })
}

async fn set_recovery(client: &Client, path: &Path, output: Output) -> Result<(), Failure> {
    output.note("making the recovery key, RSA with 4096 bits");
    let key = keys::make(path)?;
    let public =
        key.public().to_pem().map_err(|error| Failure::new("cannot use the key").because(error))?;
    let set: Result<Value, Failure> =
        client.ask(SET_RECOVERY, json!({ "publicKey": public })).await;
    set.map(|_| ()).map_err(|failure| tidy(failure, Some(path)))
}

async fn create_pool(
    client: &Client,
    arguments: &Create,
    request: &CertificateRequest,
) -> Result<Created, Failure> {
    let variables = json!({
        "name": arguments.name,
        "csr": request.to_base64(),
        "description": arguments.description,
        "labels": arguments.labels,
    });
    let answer: CreateAnswer = client.ask(CREATE, variables).await?;
    Ok(answer.worker_pool_create)
}

/// A key that the server does not know is removed. One that it may know, because the answer was
/// lost, is kept.
fn tidy(failure: Failure, key: Option<&Path>) -> Failure {
    let Some(path) = key else { return failure };
    if failure.code() == Code::Unreachable {
        let kept = format!(
            "the server may have taken it: see `gantry pool list` before you remove {}",
            path.display()
        );
        return failure.next(kept);
    }
    // We made the file a moment ago; that it cannot be removed changes nothing about the failure.
    let _already_failing = std::fs::remove_file(path);
    failure
}

fn created_text(pool: &Created, files: &Files, csr: Option<&Path>) -> String {
    let mut text = vec![("pool", output::named(&pool.name, &pool.id))];
    let shown = |path: &Path| path.display().to_string();
    if let Some(key) = &files.key {
        text.push(("private key", shown(key)));
    }
    text.push(("token", shown(&files.token)));
    if let Some(recovery) = &files.recovery {
        text.push(("recovery key", format!("{}: keep it offline", shown(recovery))));
    }
    let token = output::shell_word(&shown(&files.token));
    let key = files.key.as_deref().map_or("KEY".into(), |key| output::shell_word(&shown(key)));
    let which = csr
        .map_or(String::new(), |csr| format!(", KEY being the private key of {}", csr.display()));
    output::pairs(&text)
        + &format!(
            "\nstart a launcher{which}\n  SPACELIFT_TOKEN=\"$(cat {token})\" SPACELIFT_POOL_PRIVATE_KEY=\"$(base64 -w0 {key})\" gantry-launcher"
        )
}

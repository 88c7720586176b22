//! `gantry state push`: brings in a state, sealed and signed on this machine.
//!
//! Launchers open only what their pool signed, so that nobody who can write the object store plants a
//! state. Who pushes one therefore holds the pool's key, and it is used here and never sent.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek as _};

use gantry_model::{Epoch, MAX_STATE, RunId, StateHeading};
use gantry_protocol::{
    Digest, Header, Kind, PoolKey, PublicKey, Recipient, Signature, Statement, seal,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Push;
use crate::client::Client;
use crate::failure::{Code, Explain as _, Failure};
use crate::find::{self, Match};
use crate::keys;
use crate::output::Output;
use crate::run::stack_not_found;

const STACK: &str = "query($id:ID!){stack(id:$id){workerPool{id,name}recipients{kind,publicKey}\
    stateVersion{payloadSha256}}}";
const POOL: &str = "query($id:ID!){workerPool(id:$id){id,name,recipients{kind,publicKey}}}";
const UPLOAD: &str = "mutation($stack:ID!){stateUpload(stack:$stack)\
    {id,uploadUrl,uploadHeaders{entries{key,value}}}}";
const PUSH: &str =
    "mutation($stack:ID!$state:StatePushInput!){statePush(stack:$stack,state:$state){id}}";

#[derive(Deserialize)]
struct StackAnswer {
    stack: Option<Present>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Present {
    worker_pool: Pool,
    recipients: Vec<Key>,
    state_version: Option<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    payload_sha256: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolAnswer {
    worker_pool: Option<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    id: String,
    name: String,
    #[serde(default)]
    recipients: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    kind: String,
    public_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UploadAnswer {
    state_upload: Upload,
}

#[derive(Deserialize)]
struct Upload {
    id: RunId,
    #[serde(rename = "uploadUrl")]
    url: String,
    #[serde(rename = "uploadHeaders")]
    headers: Entries,
}

#[derive(Deserialize)]
struct Entries {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    value: String,
}

/// Reads, checks, seals, uploads and signs the state, and makes it the stack's.
pub(super) async fn push(
    client: &Client,
    arguments: &Push,
    output: Output,
) -> Result<Code, Failure> {
    let key = keys::read(&arguments.key)?;
    let (heading, file) = read(arguments)?;
    let id = &arguments.stack;
    let StackAnswer { stack } = client.ask(STACK, json!({ "id": id })).await?;
    let stack = stack.ok_or_else(|| stack_not_found(id))?;
    let moves_to = match &arguments.pool {
        Some(pool) => Some(pool_of(client, pool).await?),
        None => None,
    };
    let (pool, recipients) = match &moves_to {
        Some(pool) => (pool, &pool.recipients),
        None => (&stack.worker_pool, &stack.recipients),
    };
    check_key(&key, pool, recipients)?;
    let sealed = seal_state(file, recipients)?;
    let UploadAnswer { state_upload: upload } = client.ask(UPLOAD, json!({ "stack": id })).await?;
    let predecessor = stack.state_version.map(|version| version.payload_sha256);
    let statement = Statement {
        kind: Kind::State,
        stack: id.parse().or_say(|| "the server names no stack".into())?,
        run: upload.id,
        epoch: Epoch(0),
        serial: heading.serial,
        predecessor,
        payload_sha256: sealed.sha256,
        payload_len: sealed.size,
    };
    let signature: Signature =
        key.sign_statement(&statement).or_say(|| "cannot sign the state".into())?;
    let headers = upload.headers.entries.into_iter().map(|it| (it.key, it.value));
    let headers: Vec<_> = headers.collect();
    client.put(&upload.url, &headers, sealed.payload, sealed.size).await?;
    let state = json!({
        "id": upload.id,
        "workerPool": moves_to.as_ref().map(|pool| &pool.id),
        "serial": heading.serial,
        "lineage": heading.lineage,
        "header": sealed.header.to_string(),
        "payloadSha256": sealed.sha256.to_string(),
        "size": sealed.size,
        "predecessor": predecessor.map(|digest| digest.to_string()),
        "signature": signature.to_string(),
    });
    let _pushed: Value = client.ask(PUSH, json!({ "stack": id, "state": state })).await?;
    let pool = moves_to.as_ref().map(|pool| &pool.name);
    let value =
        json!({ "stack": id, "version": upload.id, "serial": heading.serial, "moved_to": pool });
    output.answer(&value, || told(id, heading.serial, pool))?;
    Ok(Code::Done)
}

fn told(stack: &str, serial: u64, moved_to: Option<&String>) -> String {
    let see = format!("see what it would change with\n  gantry run trigger {stack} --follow");
    match moved_to {
        None => format!("the next run of stack {stack} begins with state {serial}\n\n{see}"),
        Some(pool) => format!(
            "stack {stack} is in pool {pool} now, and its next run begins with state {serial}\n\n\
             upload its source again with\n  gantry stack upload {stack} DIR\nand {see}"
        ),
    }
}

/// The state, from its beginning, and what it says of itself.
fn read(arguments: &Push) -> Result<(StateHeading, File), Failure> {
    let path = arguments.file.display();
    let cannot = || format!("cannot read {path}");
    let mut file = File::open(&arguments.file).or_say(cannot)?;
    let about = file.metadata().or_say(cannot)?;
    if !about.is_file() {
        return Err(Failure::new(format!("{path} is not a file"))
            .next("give the file that `terraform state pull` or `gantry state pull` wrote"));
    }
    if about.len() > MAX_STATE {
        return Err(Failure::new(format!("{path} is over 1 GiB, and no run could open it"))
            .next("split the stack, or give it a backend of its own"));
    }
    let heading = StateHeading::read(BufReader::new(&mut file))
        .or_say(|| format!("{path} is not a state"))
        .map_err(|failure| {
            failure.next("give the file that `terraform state pull` or `gantry state pull` wrote")
        })?;
    file.rewind().or_say(cannot)?;
    Ok((heading, file))
}

async fn pool_of(client: &Client, pool: &str) -> Result<Pool, Failure> {
    let id = find::pool(client, pool, Match::Whole).await?;
    let PoolAnswer { worker_pool } = client.ask(POOL, json!({ "id": id })).await?;
    worker_pool.ok_or_else(|| Failure::new(format!("pool {pool} not found")))
}

/// Before anything is sent: that the launchers of the pool will take what this key signs.
fn check_key(key: &PoolKey, pool: &Pool, recipients: &[Key]) -> Result<(), Failure> {
    let mut pools = recipients.iter().filter(|it| it.kind == "POOL");
    let named = pools.next().and_then(|it| PublicKey::parse(it.public_key.as_bytes()).ok());
    if named.as_ref() == Some(key.public()) {
        return Ok(());
    }
    let is_recovery = recipients.iter().any(|it| {
        it.kind == "RECOVERY"
            && PublicKey::parse(it.public_key.as_bytes()).is_ok_and(|it| it == *key.public())
    });
    let what = if is_recovery {
        "the recovery key, which opens states and signs none"
    } else {
        "another key"
    };
    Err(Failure::new(format!("--key is not the private key of pool {}: it is {what}", pool.name))
        .next("give the key that the pool's launchers have as SPACELIFT_POOL_PRIVATE_KEY"))
}

/// A state, sealed.
struct Sealed {
    header: Header,
    sha256: Digest,
    size: u64,
    payload: File,
}

fn seal_state(mut file: File, keys: &[Key]) -> Result<Sealed, Failure> {
    let cannot = || "cannot seal the state in the directory for temporary files".to_owned();
    let recipients = keys
        .iter()
        .map(|key| Recipient::parse(key.public_key.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .or_say(|| "the server names a key to seal to that is none".into())?;
    let mut payload = tempfile::tempfile().or_say(cannot)?;
    let mut sealer = seal(&recipients, BufWriter::new(&mut payload)).or_say(cannot)?;
    io::copy(&mut file, &mut sealer).or_say(cannot)?;
    let sealed = sealer.finish().or_say(cannot)?;
    payload.rewind().or_say(cannot)?;
    Ok(Sealed {
        header: sealed.header,
        sha256: sealed.payload_sha256,
        size: sealed.payload_len,
        payload,
    })
}

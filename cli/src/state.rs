//! `gantry state`: versions of a stack's Terraform state.
//!
//! The server keeps them sealed. They are opened here, with a pool's key or the recovery key; what was
//! changed on its way or in its store does not open.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use gantry_model::{Epoch, RunId, StackId};
use gantry_protocol::{
    Digest, Header, Kind, OpenError, PoolKey, PublicKey, SealedBytes, Signature, Statement,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::config::{Credentials, Environment};
use crate::failure::{Code, Explain as _, Failure};
use crate::find::{self, Match};
use crate::output::{self, Output};
use crate::run::stack_not_found;
use crate::{file, keys};

/// The largest state that is pulled, as sealed.
const MAX_STATE: u64 = 16 << 20;

/// `gantry state …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the versions of a stack's state, newest first.
    List {
        /// The stack's id or name
        stack: String,
    },
    /// Get a version of a stack's state and open it on this machine.
    Pull(Pull),
}

/// Arguments of `gantry state pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The stack's id or name
    stack: String,
    /// Terraform's serial of the version [default: the newest]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    /// A key that it is sealed to: a pool's or the recovery key; may be repeated
    #[arg(long = "key", value_name = "FILE", required_unless_present = "sealed")]
    keys: Vec<PathBuf>,
    /// Write the age file as it is kept, without opening it
    #[arg(long, conflicts_with = "keys")]
    sealed: bool,
    /// Where to write it [default: standard output]
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

const LIST: &str = "query($stack:ID!){stack(id:$stack){stateVersions{serial,lineage,run,epoch,createdAt,\
    size,payloadSha256,current,orphaned}}}";
const PULL: &str = "query($serial:Long$stack:ID!){stack(id:$stack){stateVersion(serial:$serial){serial,run,\
    epoch,size,payloadSha256,predecessor,signature,header,downloadUrl},recipients{kind,publicKey}}}";

/// Does what `command` says.
pub async fn perform(
    command: Command,
    environment: &Environment,
    output: Output,
) -> Result<Code, Failure> {
    let client = Client::new(Credentials::find(environment)?)?;
    match command {
        Command::List { stack } => {
            let stack = find::stack(&client, &stack, Match::Prefix).await?;
            list(&client, &stack, output).await
        }
        Command::Pull(mut arguments) => {
            arguments.stack = find::stack(&client, &arguments.stack, Match::Prefix).await?;
            pull(&client, &arguments, output).await
        }
    }
}

#[derive(Deserialize)]
struct ListAnswer {
    stack: Option<Versions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    state_versions: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    serial: u64,
    lineage: String,
    run: String,
    epoch: i64,
    created_at: i64,
    size: u64,
    payload_sha256: String,
    current: bool,
    /// Why it is no version of the line.
    orphaned: Option<String>,
}

impl Listed {
    fn to_json(&self) -> Value {
        json!({
            "serial": self.serial,
            "lineage": self.lineage,
            "run": self.run,
            "epoch": self.epoch,
            "created": output::time(self.created_at),
            "size": self.size,
            "payload_sha256": self.payload_sha256,
            "current": self.current,
            "orphaned": self.orphaned,
        })
    }

    fn row(&self) -> [String; 5] {
        let note = match (&self.orphaned, self.current) {
            (Some(why), _) => format!("orphaned: {why}"),
            (None, true) => "current".into(),
            (None, false) => String::new(),
        };
        let serial = self.serial.to_string();
        [serial, self.run.clone(), output::time(self.created_at), self.size.to_string(), note]
    }
}

async fn list(client: &Client, stack: &str, output: Output) -> Result<Code, Failure> {
    let answer: ListAnswer = client.ask(LIST, json!({ "stack": stack })).await?;
    let versions = answer.stack.ok_or_else(|| stack_not_found(stack))?.state_versions;
    let values: Vec<Value> = versions.iter().map(Listed::to_json).collect();
    output.answer(&values, || {
        let rows: Vec<_> = versions.iter().map(Listed::row).collect();
        let none = "no state yet: a run that applies makes the first version";
        output::table(["SERIAL", "RUN", "CREATED", "BYTES", "NOTE"], &rows, none)
    })?;
    Ok(Code::Done)
}

#[derive(Deserialize)]
struct PullAnswer {
    stack: Option<StackAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StackAnswer {
    state_version: Option<Version>,
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recipient {
    kind: String,
    public_key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    serial: u64,
    run: RunId,
    epoch: u64,
    size: u64,
    payload_sha256: Digest,
    predecessor: Option<Digest>,
    signature: Signature,
    /// The age header, base64.
    header: String,
    download_url: String,
}

async fn pull(client: &Client, arguments: &Pull, output: Output) -> Result<Code, Failure> {
    let keys = keys::read_all(&arguments.keys)?;
    if arguments.sealed && arguments.out.is_none() && io::stdout().is_terminal() {
        return Err(
            Failure::usage("a sealed state is not text for a terminal").next("give -o FILE")
        );
    }
    let variables = json!({ "stack": arguments.stack, "serial": arguments.serial });
    let answer: PullAnswer = client.ask(PULL, variables).await?;
    let stack = answer.stack.ok_or_else(|| stack_not_found(&arguments.stack))?;
    let version = stack.state_version.ok_or_else(|| missing(arguments))?;
    let sealed = fetch(client, &version).await?;
    if arguments.sealed {
        return write(arguments, &sealed.to_file(), output);
    }
    let signers = signers(&keys, &stack.recipients);
    let id = arguments.stack.parse().or_say(|| "the server names no stack".into())?;
    check(&id, &version, &signers)?;
    let identities: Vec<&PoolKey> = keys.iter().collect();
    let state = sealed.open(&identities).map_err(|error| {
        if matches!(error, OpenError::NotARecipient { .. }) {
            return not_the_key(&keys, &stack.recipients);
        }
        Failure::new("cannot open the state").because(error)
    })?;
    write(arguments, &state, output)
}

/// Says which keys were given and which open the state, by the fingerprints that `gantry pool show` names too.
fn not_the_key(keys: &[PoolKey], recipients: &[Recipient]) -> Failure {
    let given: Vec<_> = keys.iter().map(|key| key.public().fingerprint().to_string()).collect();
    let wanted = recipients.iter().filter_map(|it| {
        let key = PublicKey::parse(it.public_key.as_bytes()).ok()?;
        Some(format!("the {} key {}", it.kind.to_lowercase(), key.fingerprint()))
    });
    let wanted: Vec<_> = wanted.collect();
    Failure::new(format!("the state is not sealed to {}", given.join(", ")))
        .next(format!("give --key for {}", wanted.join(" or ")))
}

fn missing(arguments: &Pull) -> Failure {
    let failure = match arguments.serial {
        Some(serial) => Failure::new(format!("stack {} has no state {serial}", arguments.stack)),
        None => Failure::new(format!("stack {} has no state yet", arguments.stack)),
    };
    failure.next(format!("see `gantry state list {}`", arguments.stack))
}

async fn fetch(client: &Client, version: &Version) -> Result<SealedBytes, Failure> {
    let size = version.size;
    if size > MAX_STATE {
        return Err(Failure::new(format!("the state has {size} bytes, more than {MAX_STATE}")));
    }
    let header =
        STANDARD.decode(&version.header).or_say(|| "the server sent a broken header".into())?;
    let header = Header::parse(&header).or_say(|| "the server sent a broken header".into())?;
    let payload = client.get(&version.download_url, size).await?;
    let sealed = SealedBytes { header, payload };
    if sealed.payload_sha256() == version.payload_sha256 { Ok(sealed) } else { Err(changed()) }
}

fn changed() -> Failure {
    Failure::new("the stored state was changed since the pool wrote it; it is not opened")
        .next("check who can write to the object store, and pull an older version with --serial")
}

/// The keys that may have signed a state: pool keys that we hold, and else those that the server names.
fn signers(keys: &[PoolKey], recipients: &[Recipient]) -> Vec<PublicKey> {
    let named = recipients.iter().filter(|it| it.kind == "POOL");
    let named = named.filter_map(|it| PublicKey::parse(it.public_key.as_bytes()).ok());
    keys.iter().map(|key| key.public().clone()).chain(named).collect()
}

/// A state is authentic when a pool's key signed it as what it is served as.
fn check(stack: &StackId, version: &Version, signers: &[PublicKey]) -> Result<(), Failure> {
    let statement = statement(stack, version);
    let is_signed = |key: &PublicKey| key.verify_statement(&statement, &version.signature).is_ok();
    if signers.iter().any(is_signed) { Ok(()) } else { Err(changed()) }
}

fn statement(stack: &StackId, version: &Version) -> Statement {
    Statement {
        kind: Kind::State,
        stack: stack.clone(),
        run: version.run,
        epoch: Epoch(version.epoch),
        serial: version.serial,
        predecessor: version.predecessor,
        payload_sha256: version.payload_sha256,
        payload_len: version.size,
    }
}

fn write(arguments: &Pull, content: &[u8], output: Output) -> Result<Code, Failure> {
    match &arguments.out {
        None => output.bytes(content)?,
        Some(path) => {
            file::replace(path, content)?;
            let value = json!({ "stack": arguments.stack, "file": path, "bytes": content.len() });
            output.answer(&value, || format!("{} bytes in {}", content.len(), path.display()))?;
        }
    }
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(key: &PoolKey, stack: &StackId) -> Version {
        let mut version = Version {
            serial: 7,
            run: "01FEKAGP4AYV0DWP4QDFTANRES".parse().unwrap(),
            epoch: 2,
            size: 3,
            payload_sha256: Digest::of(b"abc"),
            predecessor: None,
            signature: Signature::from_bytes(vec![1]).unwrap(),
            header: String::new(),
            download_url: String::new(),
        };
        version.signature = key.sign_statement(&statement(stack, &version)).unwrap();
        version
    }

    #[test]
    fn a_state_is_what_its_pool_signed_it_as() {
        let (key, other) = (PoolKey::generate(2048).unwrap(), PoolKey::generate(2048).unwrap());
        let stack: StackId = "network".parse().unwrap();
        let signers = [other.public().clone(), key.public().clone()];
        assert!(check(&stack, &version(&key, &stack), &signers).is_ok());
        assert!(check(&stack, &version(&key, &stack), &signers[..1]).is_err());
        let other_stack = "other".parse().unwrap();
        assert!(check(&other_stack, &version(&key, &stack), &signers).is_err());
        let older = Version { serial: 6, ..version(&key, &stack) };
        assert!(check(&stack, &older, &signers).is_err());
    }

    #[test]
    fn a_key_that_does_not_open_the_state_is_told_which_do() {
        let (pool, other) = (PoolKey::generate(2048).unwrap(), PoolKey::generate(2048).unwrap());
        let recipient =
            Recipient { kind: "POOL".to_owned(), public_key: pool.public().to_pem().unwrap() };
        let fingerprint = |key: &PoolKey| key.public().fingerprint().to_string();
        let failure = not_the_key(std::slice::from_ref(&other), &[recipient]);
        assert!(failure.to_string().contains(&fingerprint(&other)), "{failure}");
        let next = failure.next_step().unwrap();
        assert!(next.contains(&format!("the pool key {}", fingerprint(&pool))), "{next}");
    }

    #[test]
    fn the_recovery_key_trusts_the_pools_that_the_server_names() {
        let (pool, recovery) = (PoolKey::generate(2048).unwrap(), PoolKey::generate(2048).unwrap());
        let named = |kind: &str, key: &PoolKey| Recipient {
            kind: kind.to_owned(),
            public_key: key.public().to_pem().unwrap(),
        };
        let recipients = [named("POOL", &pool), named("RECOVERY", &recovery)];
        let found = signers(std::slice::from_ref(&recovery), &recipients);
        assert_eq!(found, [recovery.public().clone(), pool.public().clone()]);
    }
}

//! `gantry state pull`: gets a version, checks who signed it, and opens it.
//!
//! Nothing is opened before all of it is here and its signature fits. It goes through a file without a
//! name, so that its size matters to nobody.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read, Seek as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Epoch, RunId, StackId};
use gantry_protocol::{
    Digest, Digester, Header, Kind, OpenError, PoolKey, PublicKey, Signature, Statement, open,
};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Pull, versions};
use crate::client::Client;
use crate::failure::{Code, Explain as _, Failure};
use crate::output::Output;
use crate::run::stack_not_found;
use crate::{file, keys};

const PULL: &str = "query($id:ID$serial:Long$stack:ID!){stack(id:$stack){stateVersion(id:$id,serial:$serial)\
    {serial,run,epoch,size,payloadSha256,predecessor,signature,header,downloadUrl},\
    recipients{kind,publicKey}}}";
/// How much is read at once.
const PART: usize = 64 * 1024;

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

/// Gets the version and writes it where it is wanted.
pub(super) async fn pull(
    client: &Client,
    arguments: &Pull,
    output: Output,
) -> Result<Code, Failure> {
    let keys = keys::read_all(&arguments.keys)?;
    if arguments.sealed && arguments.out.is_none() && io::stdout().is_terminal() {
        return Err(
            Failure::usage("a sealed state is not text for a terminal").next("give -o FILE")
        );
    }
    let id = match &arguments.version {
        None => None,
        Some(version) => Some(versions::find(client, &arguments.stack, version).await?.id),
    };
    let variables = json!({ "stack": arguments.stack, "serial": arguments.serial, "id": id });
    let answer: PullAnswer = client.ask(PULL, variables).await?;
    let stack = answer.stack.ok_or_else(|| stack_not_found(&arguments.stack))?;
    let version = stack.state_version.ok_or_else(|| missing(arguments))?;
    let header = header(&version)?;
    let mut payload = fetch(client, &version).await?;
    if arguments.sealed {
        return write(arguments, header.as_bytes().chain(payload), output);
    }
    let id = arguments.stack.parse().or_say(|| "the server names no stack".into())?;
    check(&id, &version, &signers(&keys, &stack.recipients))?;
    let identities: Vec<&PoolKey> = keys.iter().collect();
    payload.rewind().or_say(cannot_keep)?;
    let opened = open(&identities, &header, BufReader::new(payload)).map_err(|error| {
        if matches!(error, OpenError::NotARecipient { .. }) {
            return not_the_key(&keys, &stack.recipients);
        }
        Failure::new("cannot open the state").because(error)
    })?;
    write(arguments, opened, output)
}

fn cannot_keep() -> String {
    "cannot keep the state in the directory for temporary files".to_owned()
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

fn header(version: &Version) -> Result<Header, Failure> {
    let broken = || "the server sent a broken header".to_owned();
    Header::parse(&STANDARD.decode(&version.header).or_say(broken)?).or_say(broken)
}

/// The payload, all of it and what it was when it was stored.
async fn fetch(client: &Client, version: &Version) -> Result<File, Failure> {
    let mut payload = tempfile::tempfile().or_say(cannot_keep)?;
    let mut digester = Digester::new();
    let mut coming = client.get(&version.download_url, version.size).await?;
    while let Some(part) = coming.part().await? {
        digester.update(&part);
        payload.write_all(&part).or_say(cannot_keep)?;
    }
    payload.rewind().or_say(cannot_keep)?;
    if digester.digest() == version.payload_sha256 { Ok(payload) } else { Err(changed()) }
}

fn changed() -> Failure {
    Failure::new("the stored state was changed since the pool wrote it; it is not opened")
        .next("check who can write to the object store, and pull an older version with --version")
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

fn write(arguments: &Pull, mut content: impl Read, output: Output) -> Result<Code, Failure> {
    let Some(path) = &arguments.out else {
        copy(&mut content, |part| output.bytes(part))?;
        return Ok(Code::Done);
    };
    let mut bytes = 0;
    file::replace_with(path, |file| {
        bytes = copy(&mut content, |part| file.write_all(part))?;
        Ok(())
    })?;
    let value = json!({ "stack": arguments.stack, "file": path, "bytes": bytes });
    output.answer(&value, || format!("{bytes} bytes in {}", path.display()))?;
    Ok(Code::Done)
}

fn copy<E: From<io::Error>>(
    content: &mut impl Read,
    mut into: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut part = Zeroizing::new(vec![0; PART]);
    let mut bytes = 0;
    loop {
        let read = content.read(&mut part)?;
        if read == 0 {
            return Ok(bytes);
        }
        into(&part[..read])?;
        bytes += read as u64;
    }
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

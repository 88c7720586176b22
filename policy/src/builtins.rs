//! The functions that policies can call, beyond those of the engine, and those they cannot.

use std::time::SystemTime;

use anyhow::{Result, anyhow, bail};
use openssl::hash::{MessageDigest, hash};
use regorus::{Engine, Value};

use crate::jwt;
use crate::policy::RegoVersion;

/// A function of Rego v0 that v1 dropped; the prelude defines it.
pub(crate) const RE_MATCH: &str = "re_match";

const OUTSIDE: &str = "decide from the input alone";

/// Functions that exist elsewhere and are refused here: name, arguments, what to do.
const REFUSED: [(&str, u8, &str); 6] = [
    (
        "exec",
        1,
        "running programs from a policy is not supported yet; verify metadata with `io.jwt.decode_verify`",
    ),
    ("http.send", 1, OUTSIDE),
    ("opa.runtime", 0, OUTSIDE),
    ("rego.parse_module", 2, OUTSIDE),
    ("time.now_ns", 0, "use `input.request.timestamp_ns`"),
    ("trace", 1, "use a message of `deny`, or `sample`"),
];

/// Functions that are ours.
const OURS: [&str; 5] = [
    "io.jwt.decode",
    "io.jwt.decode_verify",
    "io.jwt.verify_hs256",
    "io.jwt.verify_rs256",
    "sanitized",
];

/// Says what to do instead if `path` is refused.
pub(crate) fn refused(path: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _, _)| *name == path).map(|(_, _, help)| *help)
}

/// Whether a policy can call `path` without defining it.
pub(crate) fn exists(path: &str, version: RegoVersion) -> bool {
    OURS.contains(&path)
        || matches!(path, "print" | "set")
        || (path == RE_MATCH && version == RegoVersion::V0)
        || regorus::unstable::BUILTINS.contains_key(path)
}

/// Gives `engine` our functions, for one evaluation at the time `now`.
pub(crate) fn install(engine: &mut Engine, now: SystemTime) -> Result<()> {
    for (name, arguments, help) in REFUSED {
        let refuse = move |_: Vec<Value>| -> Result<Value> {
            bail!("`{name}` is not available in policies: {help}")
        };
        engine.add_extension(name.to_owned(), arguments, Box::new(refuse))?;
    }
    let mut add = |name: &str, arguments, function: fn(&[Value], SystemTime) -> Result<Value>| {
        let function = move |arguments: Vec<Value>| function(&arguments, now);
        engine.add_extension(name.to_owned(), arguments, Box::new(function))
    };
    add("io.jwt.decode", 1, |arguments, _| jwt::decode(text(arguments, 0)?))?;
    add("io.jwt.decode_verify", 2, |arguments, now| {
        jwt::decode_verify(text(arguments, 0)?, argument(arguments, 1)?, now)
    })?;
    add("io.jwt.verify_hs256", 2, |arguments, _| {
        jwt::verify_hs256(text(arguments, 0)?, text(arguments, 1)?)
    })?;
    add("io.jwt.verify_rs256", 2, |arguments, _| {
        jwt::verify_rs256(text(arguments, 0)?, text(arguments, 1)?)
    })?;
    add("sanitized", 1, |arguments, _| sanitized(argument(arguments, 0)?))
}

fn argument(arguments: &[Value], number: usize) -> Result<&Value> {
    arguments.get(number).ok_or_else(|| anyhow!("argument {} is missing", number + 1))
}

fn text(arguments: &[Value], number: usize) -> Result<&str> {
    match argument(arguments, number)?.as_string() {
        Ok(text) => Ok(text.as_ref()),
        Err(_) => bail!("argument {} is not a string", number + 1),
    }
}

/// The last eight bytes of the SHA-256 of a string, or of the JSON of anything else, in hex.
fn sanitized(value: &Value) -> Result<Value> {
    let digest = match value.as_string() {
        Ok(text) => hash(MessageDigest::sha256(), text.as_bytes())?,
        Err(_) => hash(MessageDigest::sha256(), value.to_json_str()?.as_bytes())?,
    };
    Ok(Value::from(hex(&digest[digest.len() - 8..])))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

//! The pool token: all that a launcher must know about its pool, but the key.
//!
//! It is base64 of JSON, of which public scripts read `broker.endpoint`. It holds no secret: without
//! the pool's private key it admits nobody.

mod endpoint;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{InvalidId, PoolId};
use openssl::x509::X509;
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::endpoint::{Endpoint, InvalidEndpoint};
use crate::certificate::{self, Serial, common_name, unix};
use crate::{KeyError, PoolKey, PublicKey, pem};

/// The longest token.
pub const MAX_TOKEN: usize = 64 * 1024;
/// The token's version that we write and read.
const VERSION: u64 = 1;
/// The longest `api`.
const MAX_URL: usize = 2048;

/// A text that is no token, or one that we cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Longer than any token.
    #[error("the pool token is longer than {MAX_TOKEN} bytes: it is not one")]
    TooLong,
    /// Not base64.
    #[error("the pool token is not base64: copy it whole, as `gantry pool create` printed it")]
    NotBase64,
    /// No JSON object inside.
    #[error(
        "the pool token does not hold a JSON object: copy it whole, as `gantry pool create` printed it"
    )]
    NotJson,
    /// No version inside.
    #[error("the pool token names no version: it is not one of Gantry's, create the pool here")]
    NoVersion,
    /// Another version.
    #[error(
        "the pool token has version {0} and this program reads version {VERSION}: use the launcher that your control plane offers, or reset the pool"
    )]
    OtherVersion(String),
    /// A field is missing.
    #[error("the pool token has no `{0}`: fetch it again, or reset the pool for a new one")]
    Missing(&'static str),
    /// A field is not what it should be.
    #[error("the pool token's `{field}` is wrong: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it should be.
        reason: &'static str,
    },
    /// The endpoint is none.
    #[error("the pool token's `broker.endpoint` is wrong: reset the pool for a new token")]
    Endpoint(#[from] InvalidEndpoint),
    /// The pool is no id.
    #[error("the pool token's `pool` is wrong: reset the pool for a new token")]
    Pool(#[source] InvalidId),
    /// The certificate cannot be read.
    #[error(
        "the pool token's certificate cannot be read: fetch the token again, or reset the pool for a new one"
    )]
    Certificate,
    /// The certificate's key may not be a pool's.
    #[error(
        "the pool token's certificate has a key that cannot be a pool's: reset the pool with a new key"
    )]
    CertificateKey(#[source] KeyError),
    /// The certificate names no pool.
    #[error("the pool token's certificate names no pool: reset the pool for a new token")]
    NamesNoPool,
    /// The certificate names another pool.
    #[error(
        "the pool token is for pool {pool} and its certificate for pool {certificate}: reset the pool for a new token"
    )]
    OtherPool {
        /// The token's pool.
        pool: PoolId,
        /// The certificate's.
        certificate: PoolId,
    },
    /// The authority cannot be read.
    #[error(
        "the pool token's `ca` cannot be read: fetch the token again, or reset the pool for a new one"
    )]
    Authority,
    /// The certificate is another authority's.
    #[error(
        "the pool token's certificate was not issued by its `ca`: reset the pool for a new token"
    )]
    OtherAuthority,
}

/// The private key belongs to another pool, or to an earlier token of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the private key does not match the pool token's certificate: set SPACELIFT_POOL_PRIVATE_KEY to the key whose request created or last reset the pool"
)]
pub struct KeyMismatch;

/// The certificate is not good at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValidityError {
    /// It was.
    #[error("the pool's certificate expired {} ago: reset the pool for a new token; if that is wrong, set this host's clock", words(*.seconds))]
    Expired {
        /// For how long it has not been.
        seconds: u64,
    },
    /// It will be.
    #[error("the pool's certificate is not valid for another {}: this host's clock is slow, set it", words(*.seconds))]
    NotYetValid {
        /// For how long it will not be.
        seconds: u64,
    },
}

/// All that a launcher must know about its pool, but the key. Checked: pool, certificate and
/// authority belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct PoolToken {
    /// Where the broker is.
    pub broker: Endpoint,
    /// What the pool's topics start with.
    pub namespace: Namespace,
    /// The pool.
    pub pool: PoolId,
    certificate: String,
    ca: String,
    /// Where the control plane's API is, if launchers use it: an `https` url.
    pub api: Option<String>,
    parsed: Certified,
}

/// What the certificate says.
#[derive(Clone, PartialEq, Eq)]
struct Certified {
    key: PublicKey,
    serial: Serial,
    not_before: i64,
    not_after: i64,
}

#[derive(Serialize)]
struct File<'a> {
    v: u64,
    broker: Broker<'a>,
    namespace: &'a str,
    pool: PoolId,
    certificate: &'a str,
    ca: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<&'a str>,
}

#[derive(Serialize)]
struct Broker<'a> {
    endpoint: &'a Endpoint,
}

/// What a token is made of.
#[derive(Debug, Clone)]
pub struct TokenParts {
    /// Where the broker is.
    pub broker: Endpoint,
    /// What the pool's topics start with.
    pub namespace: Namespace,
    /// The pool.
    pub pool: PoolId,
    /// The pool's certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub ca: String,
    /// Where the control plane's API is, if launchers use it.
    pub api: Option<String>,
}

impl PoolToken {
    /// Makes a token of its parts.
    ///
    /// # Errors
    /// When they do not belong together.
    pub fn new(parts: TokenParts) -> Result<Self, TokenError> {
        let TokenParts { broker, namespace, pool, certificate, ca, api } = parts;
        let parsed = check_certificate(&certificate, &ca, pool)?;
        if let Some(api) = &api {
            check_url(api)?;
        }
        Ok(Self { broker, namespace, pool, certificate, ca, api, parsed })
    }

    /// Reads the value of `SPACELIFT_TOKEN`. White space in it does not matter, and fields that we
    /// do not know are ignored.
    ///
    /// # Errors
    /// One for each way in which it is none.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let json = pem::decode(text.as_bytes()).filter(|json| !json.is_empty());
        let json = json.ok_or(TokenError::NotBase64)?;
        let fields: Map<String, Value> =
            serde_json::from_slice(&json).map_err(|_| TokenError::NotJson)?;
        check_version(&fields)?;
        let broker = fields.get("broker").and_then(|broker| broker.get("endpoint"));
        Self::new(TokenParts {
            broker: text_of(broker, "broker.endpoint")?.parse()?,
            namespace: text_of(fields.get("namespace"), "namespace")?.parse()?,
            pool: text_of(fields.get("pool"), "pool")?.parse().map_err(TokenError::Pool)?,
            certificate: text_of(fields.get("certificate"), "certificate")?.to_owned(),
            ca: text_of(fields.get("ca"), "ca")?.to_owned(),
            api: match fields.get("api") {
                None | Some(Value::Null) => None,
                present => Some(text_of(present, "api")?.to_owned()),
            },
        })
    }

    /// The token as text.
    ///
    /// # Panics
    /// Never: a token is made of strings.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(&File {
            v: VERSION,
            broker: Broker { endpoint: &self.broker },
            namespace: self.namespace.as_str(),
            pool: self.pool,
            certificate: &self.certificate,
            ca: &self.ca,
            api: self.api.as_deref(),
        });
        STANDARD.encode(json.expect("strings become JSON"))
    }

    /// The pool's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's certificate, PEM: the only one whose servers and signing leaves count.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The pool's public key: whom to seal to, and whose signatures count.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.parsed.key
    }

    /// The certificate's serial number, by which it is revoked.
    #[must_use]
    pub const fn serial(&self) -> &Serial {
        &self.parsed.serial
    }

    /// From when and until when the certificate is good, in seconds since 1970.
    #[must_use]
    pub const fn validity(&self) -> (i64, i64) {
        (self.parsed.not_before, self.parsed.not_after)
    }

    /// Checks that `key` is the private half of the certificate's key.
    ///
    /// # Errors
    /// When it is another one's.
    pub fn check_key(&self, key: &PoolKey) -> Result<(), KeyMismatch> {
        if key.public() == &self.parsed.key { Ok(()) } else { Err(KeyMismatch) }
    }

    /// Checks that the certificate is good at `now_unix`, in seconds since 1970.
    ///
    /// # Errors
    /// When it is not any more, or not yet.
    pub fn check_validity(&self, now_unix: i64) -> Result<(), ValidityError> {
        let (from, until) = self.validity();
        if now_unix > until {
            Err(ValidityError::Expired { seconds: now_unix.abs_diff(until) })
        } else if now_unix < from {
            Err(ValidityError::NotYetValid { seconds: from.abs_diff(now_unix) })
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for PoolToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolToken")
            .field("broker", &self.broker)
            .field("pool", &self.pool)
            .field("serial", &self.parsed.serial)
            .finish_non_exhaustive()
    }
}

/// What the topics of a control plane start with: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("spacelift".to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Namespace {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            let reason = "it is 1 to 64 of a-z, A-Z, 0-9, -, _ and .";
            Err(TokenError::Field { field: "namespace", reason })
        }
    }
}

fn check_version(fields: &Map<String, Value>) -> Result<(), TokenError> {
    match fields.get("v") {
        None => Err(TokenError::NoVersion),
        Some(version) if version.as_u64() == Some(VERSION) => Ok(()),
        Some(other) => Err(TokenError::OtherVersion(other.to_string().chars().take(32).collect())),
    }
}

fn text_of<'a>(value: Option<&'a Value>, field: &'static str) -> Result<&'a str, TokenError> {
    let reason = "it is a text";
    match value {
        None | Some(Value::Null) => Err(TokenError::Missing(field)),
        Some(Value::String(text)) if text.is_empty() => Err(TokenError::Missing(field)),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(TokenError::Field { field, reason })
        }
    }
}

fn check_certificate(pem: &str, ca: &str, pool: PoolId) -> Result<Certified, TokenError> {
    let certificate = certificate::parse(pem).ok_or(TokenError::Certificate)?;
    let named = common_name(&certificate).ok_or(TokenError::NamesNoPool)?;
    let named: PoolId = named.parse().map_err(|_| TokenError::NamesNoPool)?;
    if named != pool {
        return Err(TokenError::OtherPool { pool, certificate: named });
    }
    let authority = certificate::parse(ca).ok_or(TokenError::Authority)?;
    if !is_issued_by(&certificate, &authority) {
        return Err(TokenError::OtherAuthority);
    }
    let key = certificate.public_key().map_err(|_| TokenError::Certificate)?;
    Ok(Certified {
        key: PublicKey::of(&key).map_err(TokenError::CertificateKey)?,
        serial: Serial::of(certificate.serial_number()).map_err(|_| TokenError::Certificate)?,
        not_before: unix(certificate.not_before()).ok_or(TokenError::Certificate)?,
        not_after: unix(certificate.not_after()).ok_or(TokenError::Certificate)?,
    })
}

fn is_issued_by(certificate: &X509, authority: &X509) -> bool {
    authority.public_key().is_ok_and(|key| certificate.verify(&key).unwrap_or(false))
}

fn check_url(url: &str) -> Result<(), TokenError> {
    let host = url.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next());
    let has_host = host.flatten().is_some_and(|host| !host.is_empty() && !host.contains('@'));
    if has_host && url.len() <= MAX_URL && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(TokenError::Field { field: "api", reason: "it must be an https URL without a user name" })
}

/// A span of time as people say it, in its largest unit.
fn words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

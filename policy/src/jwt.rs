//! JSON Web Tokens: the `io.jwt` functions of Rego, on OpenSSL.
//!
//! What a token says about its own algorithm is never trusted: a `secret` verifies HMAC only and a
//! `cert` verifies RSA only, whatever the header claims. A token that is malformed is as one whose
//! signature is wrong, so that a policy which only asks `not valid` denies it too. Mistakes of the
//! policy itself, such as an unknown constraint, are errors and end in a denial.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::{Id, PKey, Public};
use openssl::sign::{Signer, Verifier};
use openssl::x509::X509;
use regorus::Value;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::builtins::hex;

/// No honest token is longer.
const LONGEST: usize = 64 * 1024;

struct Token<'a> {
    header: Map<String, Json>,
    payload: Map<String, Json>,
    signature: Vec<u8>,
    signed: &'a str,
}

impl<'a> Token<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        Some(Self {
            header: object(header)?,
            payload: object(payload)?,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            signed,
        })
    }

    fn algorithm(&self) -> Option<Algorithm> {
        // A critical extension that is not understood makes a token invalid.
        if self.header.contains_key("crit") {
            return None;
        }
        Algorithm::named(self.header.get("alg")?.as_str()?)
    }
}

fn object(part: &str) -> Option<Map<String, Json>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hmac(u16),
    Rsa(u16),
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hmac(256),
            "HS384" => Self::Hmac(384),
            "HS512" => Self::Hmac(512),
            "RS256" => Self::Rsa(256),
            "RS384" => Self::Rsa(384),
            "RS512" => Self::Rsa(512),
            _ => return None,
        })
    }

    fn digest(self) -> MessageDigest {
        match self {
            Self::Hmac(384) | Self::Rsa(384) => MessageDigest::sha384(),
            Self::Hmac(512) | Self::Rsa(512) => MessageDigest::sha512(),
            Self::Hmac(_) | Self::Rsa(_) => MessageDigest::sha256(),
        }
    }
}

/// What a policy verifies with.
enum Key {
    Secret(zeroize::Zeroizing<Vec<u8>>),
    Rsa(PKey<Public>),
}

impl Key {
    fn secret(secret: &str) -> Result<Self> {
        if secret.is_empty() {
            bail!("the secret is empty, so anyone could sign: set it");
        }
        Ok(Self::Secret(zeroize::Zeroizing::new(secret.as_bytes().to_vec())))
    }

    fn certificate(pem: &str) -> Result<Self> {
        // OpenSSL would ask for its passphrase on the terminal, and wait for an answer.
        if pem.contains("ENCRYPTED") {
            bail!("the cert is encrypted: a certificate or a public key is no secret");
        }
        let key = match X509::from_pem(pem.as_bytes()) {
            Ok(certificate) => certificate.public_key(),
            Err(_) => PKey::public_key_from_pem(pem.as_bytes()),
        };
        let key =
            key.ok().context("the cert is neither a certificate nor a public key in PEM form")?;
        if key.id() != Id::RSA {
            bail!("the cert holds no RSA key, and no other kind is supported");
        }
        Ok(Self::Rsa(key))
    }

    /// Whether this key made the token's signature with the algorithm that its header names.
    fn verifies(&self, token: &Token<'_>) -> Result<bool> {
        match (self, token.algorithm()) {
            (Self::Secret(secret), Some(algorithm @ Algorithm::Hmac(_))) => {
                let key = PKey::hmac(secret)?;
                let expected = Signer::new(algorithm.digest(), &key)?
                    .sign_oneshot_to_vec(token.signed.as_bytes())?;
                Ok(expected.len() == token.signature.len()
                    && memcmp::eq(&expected, &token.signature))
            }
            (Self::Rsa(key), Some(algorithm @ Algorithm::Rsa(_))) => {
                let mut verifier = Verifier::new(algorithm.digest(), key)?;
                // OpenSSL calls a signature of a wrong length an error; here it is only wrong.
                Ok(verifier
                    .verify_oneshot(&token.signature, token.signed.as_bytes())
                    .unwrap_or(false))
            }
            (Self::Secret(_) | Self::Rsa(_), _) => Ok(false),
        }
    }
}

/// The second argument of `io.jwt.decode_verify`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraints {
    secret: Option<zeroize::Zeroizing<String>>,
    cert: Option<String>,
    alg: Option<String>,
    iss: Option<String>,
    aud: Option<String>,
    /// Nanoseconds; now unless given.
    time: Option<f64>,
}

/// `io.jwt.decode`: header, payload and signature in hex, unverified.
pub(crate) fn decode(text: &str) -> Result<Value> {
    let token = Token::parse(text).context("the token is malformed")?;
    let signature = Value::from(hex(&token.signature));
    Ok(Value::from(vec![value(token.header), value(token.payload), signature]))
}

/// `io.jwt.decode_verify`: whether the token holds, and if so its header and payload.
pub(crate) fn decode_verify(text: &str, constraints: &Value, now: SystemTime) -> Result<Value> {
    let Ok(constraints) =
        serde_json::to_value(constraints).and_then(serde_json::from_value::<Constraints>)
    else {
        // The cause may quote a value, and one of the values is a secret.
        bail!(
            "the constraints may hold `secret` or `cert`, `alg`, `iss` and `aud` as strings and `time` as a number"
        );
    };
    let key = match (&constraints.secret, &constraints.cert) {
        (Some(secret), None) => Key::secret(secret)?,
        (None, Some(pem)) => Key::certificate(pem)?,
        (None, None) | (Some(_), Some(_)) => {
            bail!("the constraints need either `secret` or `cert`")
        }
    };
    let verified = match Token::parse(text) {
        Some(token) if key.verifies(&token)? && holds(&token, &constraints, now) => Some(token),
        Some(_) | None => None,
    };
    Ok(match verified {
        Some(token) => {
            Value::from(vec![Value::from(true), value(token.header), value(token.payload)])
        }
        None => Value::from(vec![Value::from(false), value(Map::new()), value(Map::new())]),
    })
}

/// `io.jwt.verify_hs256`
pub(crate) fn verify_hs256(text: &str, secret: &str) -> Result<Value> {
    verify(text, &Key::secret(secret)?, Algorithm::Hmac(256))
}

/// `io.jwt.verify_rs256`
pub(crate) fn verify_rs256(text: &str, pem: &str) -> Result<Value> {
    verify(text, &Key::certificate(pem)?, Algorithm::Rsa(256))
}

fn verify(text: &str, key: &Key, algorithm: Algorithm) -> Result<Value> {
    let holds = match Token::parse(text) {
        Some(token) => token.algorithm() == Some(algorithm) && key.verifies(&token)?,
        None => false,
    };
    Ok(Value::from(holds))
}

/// Whether the claims of a token whose signature holds are what the policy asks for.
fn holds(token: &Token<'_>, constraints: &Constraints, now: SystemTime) -> bool {
    let now = match constraints.time {
        Some(nanoseconds) => nanoseconds / 1e9,
        None => now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64(),
    };
    let claim = |name: &str| token.payload.get(name);
    // A claim of time that is no number never holds.
    let begun = claim("nbf").is_none_or(|begin| begin.as_f64().is_some_and(|begin| begin <= now));
    let lasts = claim("exp").is_none_or(|end| end.as_f64().is_some_and(|end| now < end));
    let algorithm = constraints
        .alg
        .as_deref()
        .is_none_or(|alg| token.header.get("alg").is_some_and(|is| is == alg));
    let issuer =
        constraints.iss.as_deref().is_none_or(|iss| claim("iss").is_some_and(|is| is == iss));
    // A token made for someone is not for a policy that does not say who it is.
    let audience = match (claim("aud"), constraints.aud.as_deref()) {
        (None, None) => true,
        (Some(Json::Array(list)), Some(aud)) => list.iter().any(|is| is == aud),
        (Some(is), Some(aud)) => is == aud,
        (Some(_), None) | (None, Some(_)) => false,
    };
    begun && lasts && algorithm && issuer && audience
}

fn value(object: Map<String, Json>) -> Value {
    Value::from(Json::Object(object))
}

//! A signature as text. What was signed, and by which kind of key, its user knows.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The longest signature there is: RSA with 8192 bits.
const LONGEST: usize = 1024;

/// A text that is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 1 to {LONGEST} bytes in base64")]
pub struct InvalidSignatureText;

/// The signature does not belong to these bytes and this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match: the bytes were changed, or another key signed them")]
pub struct WrongSignature;

/// A signature: RSA-PSS by a pool key, or Ed25519 by a session key. Base64 as text.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(Vec<u8>);

impl Signature {
    /// The signature with these bytes.
    ///
    /// # Errors
    /// When there are none, or more than any key of ours makes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidSignatureText> {
        if (1..=LONGEST).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(InvalidSignatureText)
        }
    }

    /// What one of our keys has just made.
    pub(crate) fn made(bytes: Vec<u8>) -> Self {
        Self::from_bytes(bytes).expect("RSA makes at most 1024 bytes, Ed25519 64")
    }

    /// The signature's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} bytes)", self.0.len())
    }
}

impl FromStr for Signature {
    type Err = InvalidSignatureText;

    fn from_str(text: &str) -> Result<Self, InvalidSignatureText> {
        if text.len() > LONGEST.div_ceil(3) * 4 {
            return Err(InvalidSignatureText);
        }
        Self::from_bytes(STANDARD.decode(text).map_err(|_| InvalidSignatureText)?)
    }
}

impl TryFrom<String> for Signature {
    type Error = InvalidSignatureText;

    fn try_from(text: String) -> Result<Self, InvalidSignatureText> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_bounded() {
        assert!(Signature::from_bytes(vec![]).is_err());
        assert!(Signature::from_bytes(vec![1; LONGEST]).is_ok());
        assert!(Signature::from_bytes(vec![1; LONGEST + 1]).is_err());
        assert!("A".repeat(1 << 20).parse::<Signature>().is_err());
        assert!("".parse::<Signature>().is_err());
        assert!("????".parse::<Signature>().is_err());
    }
}

//! Keys that live as long as one session: the launcher's own, and the control plane's leaf.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};
use serde::{Deserialize, Serialize};

use super::CryptoError;
use crate::{Signature, WrongSignature};

/// A text that is no session key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session key is 32 bytes in base64")]
pub struct InvalidSessionKey;

/// The private half of a session's Ed25519 key. It is never stored.
#[derive(Clone)]
pub struct SessionKey {
    pkey: PKey<Private>,
    public: SessionPublicKey,
}

impl SessionKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn generate() -> Result<Self, CryptoError> {
        let pkey = PKey::generate_ed25519()?;
        let raw = pkey.raw_public_key()?;
        Ok(Self { pkey, public: SessionPublicKey::made(&raw) })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> SessionPublicKey {
        self.public
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let bytes = Signer::new_without_digest(&self.pkey)?.sign_oneshot_to_vec(message)?;
        Ok(Signature::made(bytes))
    }

    pub(crate) fn pkey(&self) -> &PKeyRef<Private> {
        &self.pkey
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The public half of a session's Ed25519 key: 32 bytes, base64 as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionPublicKey([u8; 32]);

impl SessionPublicKey {
    /// The public key of an Ed25519 `pkey`.
    pub(crate) fn of(pkey: &PKeyRef<Public>) -> Result<Self, InvalidSessionKey> {
        if pkey.id() != Id::ED25519 {
            return Err(InvalidSessionKey);
        }
        let raw = pkey.raw_public_key().map_err(|_| InvalidSessionKey)?;
        raw.try_into().map(Self).map_err(|_| InvalidSessionKey)
    }

    /// What OpenSSL has just made.
    fn made(raw: &[u8]) -> Self {
        Self(raw.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks what [`SessionKey::sign`] made.
    ///
    /// # Errors
    /// When the signature is not that of this key for this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), WrongSignature> {
        let verify = || -> Result<bool, ErrorStack> {
            let pkey = PKey::public_key_from_raw_bytes(&self.0, Id::ED25519)?;
            Verifier::new_without_digest(&pkey)?.verify_oneshot(signature.as_bytes(), message)
        };
        match verify() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(WrongSignature),
        }
    }
}

impl fmt::Display for SessionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SessionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionPublicKey({self})")
    }
}

impl FromStr for SessionPublicKey {
    type Err = InvalidSessionKey;

    fn from_str(text: &str) -> Result<Self, InvalidSessionKey> {
        if text.len() != 44 {
            return Err(InvalidSessionKey);
        }
        let bytes = STANDARD.decode(text).map_err(|_| InvalidSessionKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidSessionKey)
    }
}

impl TryFrom<String> for SessionPublicKey {
    type Error = InvalidSessionKey;

    fn try_from(text: String) -> Result<Self, InvalidSessionKey> {
        text.parse()
    }
}

impl From<SessionPublicKey> for String {
    fn from(key: SessionPublicKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_key_verifies_a_message() {
        let (ours, other) = (SessionKey::generate().unwrap(), SessionKey::generate().unwrap());
        let signature = ours.sign(b"claim").unwrap();
        assert_eq!(ours.public().verify(b"claim", &signature), Ok(()));
        assert_eq!(ours.public().verify(b"grant", &signature), Err(WrongSignature));
        assert_eq!(other.public().verify(b"claim", &signature), Err(WrongSignature));
        assert_eq!(ours.public().to_string().parse(), Ok(ours.public()));
        assert!(!format!("{ours:?}").contains("PRIVATE"));
    }
}

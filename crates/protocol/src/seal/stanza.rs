//! What a header holds for one recipient: the file key under RSA-OAEP.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Padding;
use zeroize::Zeroizing;

use super::kdf::FileKey;
use crate::{CryptoError, KeyError, PoolKey, PublicKey};

/// The stanza's first word.
pub(super) const KIND: &str = "ssh-rsa";
/// Binds the encrypted file key to its use.
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-rsa";

/// How a header names a recipient: the first 4 bytes of the SHA-256 of its key as SSH writes it.
///
/// It is a hint for choosing the key, not a proof: two keys can share a tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag([u8; 4]);

impl Tag {
    /// The tag of a key.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn of(key: &PublicKey) -> Result<Self, CryptoError> {
        let [a, b, c, d, ..] = openssl::sha::sha256(&key.ssh_wire()?);
        Ok(Self([a, b, c, d]))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        STANDARD_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Somebody who shall be able to open a sealed thing: a pool, or who holds a recovery key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    key: PublicKey,
    tag: Tag,
}

impl Recipient {
    /// The holder of the private half of `key`.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn new(key: PublicKey) -> Result<Self, CryptoError> {
        Ok(Self { tag: Tag::of(&key)?, key })
    }

    /// The pool of a certificate, or the holder of a public key, in PEM or DER.
    ///
    /// # Errors
    /// When it is neither, or the key may not be a pool's.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        Ok(Self::new(PublicKey::parse(bytes)?)?)
    }

    /// The recipient's public key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// How headers name the recipient.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// The file key, so that only this recipient can read it.
    pub(super) fn wrap(&self, file_key: &FileKey) -> Result<Vec<u8>, ErrorStack> {
        let mut context = PkeyCtx::new(self.key.pkey())?;
        context.encrypt_init()?;
        set_oaep(&mut context)?;
        let mut body = Vec::new();
        context.encrypt_to_vec(file_key.as_bytes(), &mut body)?;
        Ok(body)
    }
}

/// The file key in a stanza's body, if it is there for `key`.
pub(super) fn unwrap(key: &PoolKey, body: &[u8]) -> Option<FileKey> {
    let size = key.pkey().size();
    let mut plain = Zeroizing::new(vec![0; size]);
    let decrypt = |plain: &mut [u8]| {
        let mut context = PkeyCtx::new(key.pkey())?;
        context.decrypt_init()?;
        set_oaep(&mut context)?;
        context.decrypt(body, Some(plain))
    };
    // One answer for every way to fail, and OpenSSL takes the same time for each of them.
    let len = (body.len() == size).then(|| decrypt(&mut plain))?.ok()?;
    FileKey::from_bytes(plain.get(..len)?)
}

fn set_oaep<T>(context: &mut PkeyCtx<T>) -> Result<(), ErrorStack> {
    context.set_rsa_padding(Padding::PKCS1_OAEP)?;
    context.set_rsa_oaep_md(Md::sha256())?;
    context.set_rsa_mgf1_md(Md::sha256())?;
    context.set_rsa_oaep_label(LABEL)
}

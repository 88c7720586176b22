//! The pool's key pair, and the short-lived key of one session.
//!
//! A pool key is RSA of 2048 to 8192 bits: it opens what is sealed to the pool, signs what the
//! pool's workers leave for each other, and identifies the pool's launchers. Private parts are
//! zeroed when dropped and show up in no error and no debug output.

mod private;
mod session;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use openssl::x509::X509;
use zeroize::Zeroizing;

pub use self::session::{InvalidSessionKey, SessionKey, SessionPublicKey};
use crate::{Digest, Fingerprint, Signature, WrongSignature, pem};

/// The fewest bits of a pool key.
pub const MIN_KEY_BITS: u32 = 2048;
/// The most bits of a pool key.
pub const MAX_KEY_BITS: u32 = 8192;
/// The longest key text that is looked at; a PEM of 8192 bits has 6.5 KiB.
const MAX_TEXT: usize = 64 * 1024;

/// OpenSSL failed where it should not: no memory or no entropy, or a broken installation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the OpenSSL library failed: check its installation and configuration on this host")]
pub struct CryptoError(#[from] ErrorStack);

/// A text that is no pool key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the key is not base64: give it the output of `base64 -w0 pool.key`")]
    NotBase64,
    /// The PEM text where its base64 is expected.
    #[error(
        "the key is a PEM text where its base64 is expected: give it the output of `base64 -w0 pool.key`"
    )]
    IsPem,
    /// No PEM block, or a damaged one.
    #[error(
        "the key is not a PEM file: it starts with `-----BEGIN PRIVATE KEY-----` and ends with its END line"
    )]
    NotPem,
    /// Protected by a passphrase.
    #[error(
        "the private key is encrypted: remove the passphrase with `openssl pkey -in pool.key -out plain.key`"
    )]
    Encrypted,
    /// Something else where a private key is expected.
    #[error(
        "a private key is expected and this is a {0}: give the file that `openssl req` wrote by -keyout"
    )]
    NotPrivate(&'static str),
    /// `OpenSSH`'s own format.
    #[error(
        "the private key is in OpenSSH's format: turn a copy into PEM with `ssh-keygen -p -m PKCS8 -f pool.key`"
    )]
    OpenSsh,
    /// Neither certificate nor public key.
    #[error("this is neither a certificate nor a public key in PEM or DER")]
    NotPublic,
    /// The block's content cannot be read.
    #[error("the key's content is damaged: restore it from a backup")]
    Damaged,
    /// A key of another algorithm.
    #[error(
        "the key is not RSA: make one with `openssl req -new -newkey rsa:4096 -nodes`, or with `gantry pool create`"
    )]
    NotRsa,
    /// Too small or too large.
    #[error("the key has {0} bits: use RSA with {MIN_KEY_BITS} to {MAX_KEY_BITS}")]
    Size(u32),
    /// A public exponent that no sound tool makes.
    #[error("the key's public exponent is unsound: make a new key")]
    Exponent,
    /// Larger than any key.
    #[error("the key's text is longer than {MAX_TEXT} bytes: it is not a key")]
    TooLong,
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl From<ErrorStack> for KeyError {
    fn from(error: ErrorStack) -> Self {
        Self::Crypto(error.into())
    }
}

/// A pool's private key. Copies share one memory, which is zeroed with the last of them.
#[derive(Clone)]
pub struct PoolKey {
    pkey: PKey<Private>,
    public: PublicKey,
}

impl PoolKey {
    /// Reads the value of `SPACELIFT_POOL_PRIVATE_KEY`: base64 of a whole PEM file. White space in
    /// it does not matter.
    ///
    /// # Errors
    /// One for each way in which it is no pool key.
    pub fn from_environment(value: &str) -> Result<Self, KeyError> {
        if value.len() > MAX_TEXT {
            return Err(KeyError::TooLong);
        }
        if value.trim_start().starts_with("-----BEGIN") {
            return Err(KeyError::IsPem);
        }
        let text = pem::decode(value.as_bytes()).ok_or(KeyError::NotBase64)?;
        Self::from_pem(&text)
    }

    /// Reads a PEM file: PKCS#8 or PKCS#1, without passphrase. Other blocks beside it are ignored.
    ///
    /// # Errors
    /// One for each way in which it is no pool key.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > MAX_TEXT {
            return Err(KeyError::TooLong);
        }
        Self::from_pkey(private::read(text)?)
    }

    /// Makes a new key. Takes a second or two for 4096 bits.
    ///
    /// # Errors
    /// When `bits` is outside of what a pool key may have, or OpenSSL fails.
    pub fn generate(bits: u32) -> Result<Self, KeyError> {
        if !(MIN_KEY_BITS..=MAX_KEY_BITS).contains(&bits) {
            return Err(KeyError::Size(bits));
        }
        Self::from_pkey(PKey::from_rsa(Rsa::generate(bits)?)?)
    }

    fn from_pkey(pkey: PKey<Private>) -> Result<Self, KeyError> {
        let public = PublicKey::of(&pkey)?;
        let key = Self { pkey, public };
        // Parts that do not belong together would make signatures that betray the key.
        let probe = b"gantry key probe v1\0";
        match key.sign_pss(probe) {
            Ok(signature) if key.public.verify_pss(probe, &signature).is_ok() => Ok(key),
            Ok(_) | Err(_) => Err(KeyError::Damaged),
        }
    }

    /// The key as PKCS#8 PEM, without passphrase.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn to_pem(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        Ok(Zeroizing::new(self.pkey.private_key_to_pem_pkcs8()?))
    }

    /// The key as PKCS#8 DER, without passphrase.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        Ok(Zeroizing::new(self.pkey.private_key_to_pkcs8()?))
    }

    /// 32 bytes that only those know who have this key: the same for the same words, others for others.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn derive(&self, words: &str) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        Ok(crate::seal::kdf::derived(&self.to_pkcs8()?, words)?)
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message` with RSA-PSS: SHA-256, MGF1 with SHA-256, a salt of 32 bytes.
    ///
    /// What is signed starts with words that no other kind of message of ours starts with.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn sign_pss(&self, message: &[u8]) -> Result<Signature, CryptoError> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.pkey)?;
        signer.set_rsa_padding(Padding::PKCS1_PSS)?;
        signer.set_rsa_mgf1_md(MessageDigest::sha256())?;
        signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
        let bytes = signer.sign_oneshot_to_vec(message)?;
        Ok(Signature::made(bytes))
    }

    pub(crate) fn pkey(&self) -> &PKeyRef<Private> {
        &self.pkey
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolKey")
            .field("fingerprint", &self.public.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The public half of a pool's key, or of a recovery key.
#[derive(Clone)]
pub struct PublicKey {
    pkey: PKey<Public>,
    fingerprint: Fingerprint,
}

impl PublicKey {
    /// Reads a certificate or a public key (`SubjectPublicKeyInfo`), in PEM or DER.
    ///
    /// # Errors
    /// When it is neither, or the key may not be a pool's.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > MAX_TEXT {
            return Err(KeyError::TooLong);
        }
        let text = str::from_utf8(bytes).unwrap_or_default();
        let content = pem::content(text, &["CERTIFICATE", "PUBLIC KEY"]);
        let der = content.as_ref().map_or(bytes, |content| content.as_slice());
        X509::from_der(der)
            .and_then(|certificate| certificate.public_key())
            .or_else(|_| PKey::public_key_from_der(der))
            .map_err(|_| KeyError::NotPublic)
            .and_then(|pkey| Self::of(&pkey))
    }

    /// Checks and keeps the public half of `pkey`.
    pub(crate) fn of<T: HasPublic>(pkey: &PKeyRef<T>) -> Result<Self, KeyError> {
        if pkey.id() != Id::RSA {
            return Err(KeyError::NotRsa);
        }
        let rsa = pkey.rsa()?;
        let bits = u32::try_from(rsa.n().num_bits()).unwrap_or(0);
        if !(MIN_KEY_BITS..=MAX_KEY_BITS).contains(&bits) {
            return Err(KeyError::Size(bits));
        }
        // 1 and even numbers encrypt nothing; long ones are a way to keep others busy.
        if !rsa.e().is_odd() || !(2..=32).contains(&rsa.e().num_bits()) || !rsa.n().is_odd() {
            return Err(KeyError::Exponent);
        }
        let plain = Rsa::from_public_components(rsa.n().to_owned()?, rsa.e().to_owned()?)?;
        let pkey = PKey::from_rsa(plain)?;
        let fingerprint = Fingerprint(Digest::of(&pkey.public_key_to_der()?));
        Ok(Self { pkey, fingerprint })
    }

    /// What names the key: the SHA-256 of its `SubjectPublicKeyInfo`.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// How many bits its modulus has.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.pkey.bits()
    }

    /// The key as `SubjectPublicKeyInfo` in PEM.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn to_pem(&self) -> Result<String, CryptoError> {
        Ok(pem::text(self.pkey.public_key_to_pem()?))
    }

    /// The key as SSH and the stock `age -r` take it: `ssh-rsa` and base64.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn to_ssh(&self) -> Result<String, CryptoError> {
        Ok(format!("ssh-rsa {}", STANDARD.encode(self.ssh_wire()?)))
    }

    /// Checks what [`PoolKey::sign_pss`] made.
    ///
    /// # Errors
    /// When the signature is not that of this key for this message.
    pub fn verify_pss(&self, message: &[u8], signature: &Signature) -> Result<(), WrongSignature> {
        let verify = || -> Result<bool, ErrorStack> {
            let mut verifier = Verifier::new(MessageDigest::sha256(), &self.pkey)?;
            verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
            verifier.set_rsa_mgf1_md(MessageDigest::sha256())?;
            verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
            verifier.verify_oneshot(signature.as_bytes(), message)
        };
        match verify() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(WrongSignature),
        }
    }

    pub(crate) fn pkey(&self) -> &PKeyRef<Public> {
        &self.pkey
    }

    /// The key as SSH writes it: the word `ssh-rsa`, exponent and modulus, each with its length.
    pub(crate) fn ssh_wire(&self) -> Result<Vec<u8>, CryptoError> {
        let rsa = self.pkey.rsa()?;
        let mut wire = Vec::new();
        for part in [b"ssh-rsa".to_vec(), unsigned(&rsa.e().to_vec()), unsigned(&rsa.n().to_vec())]
        {
            let len = u32::try_from(part.len()).expect("a modulus has at most 1024 bytes");
            wire.extend_from_slice(&len.to_be_bytes());
            wire.extend_from_slice(&part);
        }
        Ok(wire)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint)
    }
}

/// A number as SSH writes it: a leading zero where the highest bit would mean a minus.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let sign = number.first().filter(|&&first| first >= 0x80).map(|_| 0);
    sign.into_iter().chain(number.iter().copied()).collect()
}

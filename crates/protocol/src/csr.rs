//! Certificate signing requests: how a pool's public key comes to the control plane.
//!
//! Of a request only the key is used. Its signature proves that who asks holds the private half;
//! subject and extensions are what the asker would like, and are discarded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::{X509Name, X509Req};

use crate::{CryptoError, KeyError, PoolKey, PublicKey, pem};

/// The longest request that is looked at.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The subject that the public instructions name.
const COMMON_NAME: &str = "workers.spacelift.io";

/// A text that is no usable request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Longer than any request.
    #[error("the certificate signing request is longer than {MAX_REQUEST} bytes: it is not one")]
    TooLong,
    /// Neither PEM nor its base64.
    #[error(
        "the certificate signing request is neither PEM nor its base64: give the file that `openssl req -new` wrote by -out"
    )]
    NotPem,
    /// Something else.
    #[error(
        "this is not a certificate signing request: give the file that `openssl req -new` wrote by -out"
    )]
    NotRequest,
    /// Its key may not be a pool's.
    #[error("the certificate signing request's key cannot be a pool's")]
    Key(#[from] KeyError),
    /// Its signature is wrong.
    #[error("the certificate signing request is not signed by its own key: make it again")]
    WrongSignature,
}

/// A request whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    pem: String,
    key: PublicKey,
}

impl CertificateRequest {
    /// A request for `key`'s public half, signed by it.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn create(key: &PoolKey) -> Result<Self, CryptoError> {
        Ok(Self { pem: pem::text(sign(key)?), key: key.public().clone() })
    }

    /// Reads a request: PEM, or base64 of it.
    ///
    /// # Errors
    /// One for each way in which it is none, and when its key may not be a pool's.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let is_pem = text.trim_start().starts_with("-----BEGIN");
        let decoded = (!is_pem).then(|| pem::decode(text.as_bytes()).ok_or(RequestError::NotPem));
        let decoded = decoded.transpose()?;
        let bytes = decoded.as_ref().map_or(text.as_bytes(), |decoded| decoded.as_slice());
        let text = str::from_utf8(bytes).map_err(|_| RequestError::NotPem)?;
        if !text.contains("-----BEGIN ") {
            return Err(RequestError::NotPem);
        }
        let labels = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
        let content = pem::content(text, &labels).ok_or(RequestError::NotRequest)?;
        let request = X509Req::from_der(&content).map_err(|_| RequestError::NotRequest)?;
        let pem = request.to_pem().map(pem::text).map_err(|_| RequestError::NotRequest)?;
        // The key's size is checked before the key is used.
        let key = request.public_key().map_err(|_| RequestError::Key(KeyError::Damaged))?;
        let key = PublicKey::of(&key)?;
        match request.verify(key.pkey()) {
            Ok(true) => Ok(Self { pem, key }),
            Ok(false) | Err(_) => Err(RequestError::WrongSignature),
        }
    }

    /// The public key that is to be certified.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// The request as PEM.
    #[must_use]
    pub fn as_pem(&self) -> &str {
        &self.pem
    }

    /// The request as the API takes it: base64 of the PEM.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.pem)
    }
}

fn sign(key: &PoolKey) -> Result<Vec<u8>, ErrorStack> {
    let mut subject = X509Name::builder()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, COMMON_NAME)?;
    let mut request = X509Req::builder()?;
    request.set_version(0)?;
    request.set_subject_name(&subject.build())?;
    request.set_pubkey(key.pkey())?;
    request.sign(key.pkey(), MessageDigest::sha256())?;
    request.build().to_pem()
}

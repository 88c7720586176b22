//! Finds the private key in a PEM text, and says what else is there if none is.

use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;

use super::KeyError;
use crate::pem::blocks;

/// The first private key in `text`.
pub(super) fn read(text: &[u8]) -> Result<PKey<Private>, KeyError> {
    let text = str::from_utf8(text).map_err(|_| KeyError::NotPem)?;
    let blocks = blocks(text);
    let first = blocks.first().ok_or(KeyError::NotPem)?;
    let key = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")).unwrap_or(first);
    if key.is_encrypted() {
        return Err(KeyError::Encrypted);
    }
    match key.label {
        "PRIVATE KEY" => {
            let content = key.content().ok_or(KeyError::Damaged)?;
            PKey::private_key_from_pkcs8(&content).map_err(|_| KeyError::Damaged)
        }
        "RSA PRIVATE KEY" => {
            let content = key.content().ok_or(KeyError::Damaged)?;
            let rsa = Rsa::private_key_from_der(&content).and_then(PKey::from_rsa);
            rsa.map_err(|_| KeyError::Damaged)
        }
        "OPENSSH PRIVATE KEY" => Err(KeyError::OpenSsh),
        "EC PRIVATE KEY" | "DSA PRIVATE KEY" => Err(KeyError::NotRsa),
        "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
            Err(KeyError::NotPrivate("certificate"))
        }
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            Err(KeyError::NotPrivate("certificate request"))
        }
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Err(KeyError::NotPrivate("public key")),
        _ => Err(KeyError::NotPem),
    }
}

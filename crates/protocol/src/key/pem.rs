//! Finds the private key in a PEM text, and says what else is there if none is.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use super::KeyError;

/// Base64 as people paste it: padding may be missing.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `text` without its white space.
pub(crate) fn without_space(text: &[u8]) -> Vec<u8> {
    let mut dense = Vec::with_capacity(text.len());
    dense.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    dense
}

/// One block of a PEM text: what it says it is, and what stands between its two lines.
struct Block<'a> {
    label: &'a str,
    body: &'a str,
}

/// The blocks of `text`, up to the first one that does not end.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let Some((label, inner)) = begun.split_once("-----") else { break };
        let Some((body, after)) = inner.split_once("-----END ") else { break };
        let Some(after) = after.strip_prefix(label).and_then(|it| it.strip_prefix("-----")) else {
            break;
        };
        found.push(Block { label, body });
        rest = after;
    }
    found
}

/// The first private key in `text`.
pub(super) fn private_key(text: &[u8]) -> Result<PKey<Private>, KeyError> {
    let text = str::from_utf8(text).map_err(|_| KeyError::NotPem)?;
    let blocks = blocks(text);
    let first = blocks.first().ok_or(KeyError::NotPem)?;
    let key = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")).unwrap_or(first);
    // Older tools keep the label and say so in the first line of the body.
    if key.body.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    match key.label {
        "PRIVATE KEY" => {
            PKey::private_key_from_pkcs8(&content(key)?).map_err(|_| KeyError::Damaged)
        }
        "RSA PRIVATE KEY" => Rsa::private_key_from_der(&content(key)?)
            .and_then(PKey::from_rsa)
            .map_err(|_| KeyError::Damaged),
        "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
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

fn content(block: &Block<'_>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let dense = Zeroizing::new(without_space(block.body.as_bytes()));
    let content = BASE64.decode(dense.as_slice()).map_err(|_| KeyError::Damaged)?;
    Ok(Zeroizing::new(content))
}

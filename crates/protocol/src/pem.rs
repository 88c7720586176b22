//! PEM texts.
//!
//! They are taken apart here and not by OpenSSL, which asks for a passphrase on the terminal wherever
//! a text says that it is encrypted, certificates included.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// Base64 as people paste it: padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes base64 as people paste it: white space does not matter and padding may be missing.
pub(crate) fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut dense = Zeroizing::new(Vec::with_capacity(text.len()));
    dense.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    BASE64.decode(dense.as_slice()).ok().map(Zeroizing::new)
}

/// What OpenSSL wrote as PEM.
pub(crate) fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).expect("PEM is ASCII")
}

/// One block of a PEM text: what it says it is, and what stands between its two lines.
pub(crate) struct Block<'a> {
    pub(crate) label: &'a str,
    body: &'a str,
}

impl Block<'_> {
    /// The block's content, which is DER. None for one that is damaged or encrypted.
    pub(crate) fn content(&self) -> Option<Zeroizing<Vec<u8>>> {
        decode(self.body.as_bytes())
    }

    /// Whether it says that it is encrypted; older tools keep the label and say so in the body.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.label.starts_with("ENCRYPTED ") || self.body.contains("Proc-Type:")
    }
}

/// The blocks of `text`, up to the first one that does not end.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
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

/// The content of the first block with one of `labels`.
pub(crate) fn content(text: &str, labels: &[&str]) -> Option<Zeroizing<Vec<u8>>> {
    blocks(text).iter().find(|block| labels.contains(&block.label))?.content()
}

//! Files that a source should not bring: states, and private keys.
//!
//! A state belongs in `gantry state`, and in a source it would be a second one. A private key that
//! lies beside the configuration by mistake would be in every container that runs it.

use std::io::{self, Read as _};
use std::path::Path;

/// Larger files hold no keys.
const MAX_LOOKED_AT: u64 = 1 << 20;
/// How much of a key has to follow its first line.
const LEAST: usize = 32;

/// Why a file is not sent unless it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    State,
    Key,
}

impl Kind {
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::State => "a Terraform state",
            Self::Key => "a private key",
        }
    }
}

/// What the file is by its name.
pub(super) fn by_name(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_string_lossy();
    let is_state =
        name.ends_with(".tfstate") || (name.contains(".tfstate.") && name.ends_with(".backup"));
    is_state.then_some(Kind::State)
}

/// What the file, of `size` bytes, is by its content.
pub(super) fn by_content(file: impl io::Read, size: u64) -> io::Result<Option<Kind>> {
    if size > MAX_LOOKED_AT {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(MAX_LOOKED_AT).read_to_end(&mut content)?;
    Ok(has_key(&content).then_some(Kind::Key))
}

fn has_key(content: &[u8]) -> bool {
    for (mark, begins_key) in [
        (&b"PRIVATE KEY-----"[..], true),
        (b"PRIVATE KEY BLOCK-----", true),
        (b"AGE-SECRET-KEY-1", false),
        (b"PuTTY-User-Key-File-", false),
    ] {
        let mut rest = content;
        while let Some(at) = find(rest, mark) {
            let (before, behind) = (&rest[..at], &rest[at + mark.len()..]);
            if !begins_key || (is_begin(before) && is_followed(behind)) {
                return true;
            }
            rest = behind;
        }
    }
    false
}

fn find(content: &[u8], mark: &[u8]) -> Option<usize> {
    let first = mark[0];
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|byte| *byte == first) {
        if content[from + at..].starts_with(mark) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// `-----BEGIN `, and perhaps the key's algorithm, stand before it on its line.
fn is_begin(before: &[u8]) -> bool {
    let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    find(line, b"-----BEGIN ").is_some()
}

/// Text that only speaks of keys, as the rule of a variable does, has no key behind the words.
fn is_followed(behind: &[u8]) -> bool {
    // Headers of an encrypted key stand between, and a key in JSON has its line breaks spelled.
    let text = behind.iter().take(1024).copied().collect::<Vec<_>>();
    let text = String::from_utf8_lossy(&text).replace("\\n", "\n");
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    text.split_whitespace().any(|word| word.len() >= LEAST && word.chars().all(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_known_in_whatever_it_stands() {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n";
        for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
            let key = format!("-----BEGIN {kind}PRIVATE KEY-----\n{body}");
            assert!(has_key(key.as_bytes()), "{kind}");
            let indented = format!("key: |\n    -----BEGIN {kind}PRIVATE KEY-----\n    {body}");
            assert!(has_key(indented.as_bytes()), "{kind}");
            let in_json = format!("{{\"k\":\"{}\"}}", key.replace('\n', "\\n"));
            assert!(has_key(in_json.as_bytes()), "{kind}");
        }
        let old = format!(
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n{body}"
        );
        assert!(has_key(old.as_bytes()));
        assert!(has_key(b"# public key: age1\nAGE-SECRET-KEY-1ABC"));
    }

    #[test]
    fn what_only_speaks_of_keys_is_none() {
        for text in [
            "condition = can(regex(\"^-----BEGIN (RSA )?PRIVATE KEY-----\", var.key))\n",
            "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTU\n",
            "the line that ends in PRIVATE KEY----- is the first\n",
            "",
        ] {
            assert!(!has_key(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_state_is_known_by_its_name() {
        for name in [
            "terraform.tfstate",
            "a/errored.tfstate",
            "terraform.tfstate.backup",
            "x.tfstate.17.backup",
        ] {
            assert_eq!(by_name(Path::new(name)), Some(Kind::State), "{name}");
        }
        for name in ["main.tf", "tfstate", "state.tf", ".terraform.lock.hcl", "terraform.tfstate.d"]
        {
            assert_eq!(by_name(Path::new(name)), None, "{name}");
        }
    }
}

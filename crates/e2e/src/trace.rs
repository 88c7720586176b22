//! Looks for a secret wherever a host can keep one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::objects::all_files;

/// A secret in the forms in which it could be lying about.
#[derive(Debug, Clone)]
pub struct Secrecy {
    forms: Vec<String>,
}

impl Secrecy {
    /// Of a value: as it is, and base64 at each of the three alignments.
    #[must_use]
    pub fn of(value: &str) -> Self {
        let mut forms = vec![value.to_owned()];
        for shift in 0..3 {
            let shifted = [&b"\0\0"[..shift], value.as_bytes()].concat();
            let encoded = STANDARD_NO_PAD.encode(&shifted);
            // The characters at both ends depend on what stands beside the value.
            let begin = if shift == 0 { 0 } else { shift + 1 };
            let end = shifted.len() / 3 * 4;
            forms.push(encoded[begin..end].to_owned());
        }
        Self { forms }
    }

    /// Whether any form of it is in there.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        // All forms are ASCII, so what is no text around them does not matter.
        let text = String::from_utf8_lossy(bytes);
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }
}

/// The files below `dirs` that were written after `since` and hold the secret, but for those below `except`.
#[must_use]
pub fn traces(
    secrecy: &Secrecy,
    since: SystemTime,
    dirs: &[&Path],
    except: &[PathBuf],
) -> Vec<PathBuf> {
    let since = since
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed());
    let is_newer = |file: &PathBuf| {
        // The time of the change itself, which no copying preserves. A file that is gone holds nothing.
        fs::symlink_metadata(file).is_ok_and(|about| about.ctime() >= since)
    };
    let files = dirs.iter().flat_map(|dir| all_files(dir)).filter(is_newer);
    let files = files.filter(|file| !except.iter().any(|dir| file.starts_with(dir)));
    files.filter(|file| fs::read(file).is_ok_and(|bytes| secrecy.is_in(&bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_stands() {
        let secrecy = Secrecy::of("correct-horse-battery");
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}correct-horse-battery and more");
            assert!(secrecy.is_in(STANDARD_NO_PAD.encode(text).as_bytes()), "{before:?}");
        }
        assert!(!secrecy.is_in(b"correct-horse"));
    }
}

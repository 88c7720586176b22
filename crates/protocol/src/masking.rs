//! Which values a log can hide.
//!
//! A launcher hides a secret by looking for it in all that a run writes. A value of few bytes, or one
//! that ordinary text is full of, would hide that text, and what is missing would tell the value. So
//! both are left as they are, and whoever enters one or runs with one is told so, by its name.

use std::collections::BTreeSet;

/// The fewest bytes of a value that is hidden, white space at its ends not counted.
pub const SHORTEST_MASKED: usize = 4;

/// The fewest different bytes.
const LEAST_VARIETY: usize = 3;

/// Words that stand in every log.
const WORDS: [&str; 16] = [
    "auto",
    "debug",
    "default",
    "disabled",
    "enabled",
    "error",
    "false",
    "info",
    "none",
    "null",
    "password",
    "secret",
    "terraform",
    "true",
    "undefined",
    "warn",
];

/// Why a value cannot be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmaskable {
    /// It has fewer bytes than [`SHORTEST_MASKED`].
    #[error("it has fewer than {SHORTEST_MASKED} characters")]
    TooShort,
    /// Ordinary text is full of it.
    #[error("it is blank, an ordinary word, or the same one or two characters over and over")]
    TooPlain,
}

/// Tells whether logs can hide `value`.
///
/// # Errors
/// When they cannot, with the reason.
pub fn check_maskable(value: &[u8]) -> Result<(), Unmaskable> {
    let core = value.trim_ascii();
    if core.is_empty() && value.len() >= SHORTEST_MASKED {
        return Err(Unmaskable::TooPlain);
    }
    if core.len() < SHORTEST_MASKED {
        return Err(Unmaskable::TooShort);
    }
    let variety = core.iter().collect::<BTreeSet<_>>().len();
    let is_word = WORDS.iter().any(|word| core.eq_ignore_ascii_case(word.as_bytes()));
    if variety < LEAST_VARIETY || is_word { Err(Unmaskable::TooPlain) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ordinary_text_is_full_of_cannot_be_hidden() {
        for short in ["", "0", "q7z", " ab \n"] {
            assert_eq!(check_maskable(short.as_bytes()), Err(Unmaskable::TooShort), "{short:?}");
        }
        for plain in
            ["true", "False", " null\n", "    ", "\t\t\t\t", "0000", "----", "abab", "aabba"]
        {
            assert_eq!(check_maskable(plain.as_bytes()), Err(Unmaskable::TooPlain), "{plain:?}");
        }
        for secret in ["q7z9", "1234", "hunter2", " hunter2 ", "a-b-", "\u{1f511}"] {
            assert_eq!(check_maskable(secret.as_bytes()), Ok(()), "{secret:?}");
        }
    }
}

//! Which part of a source a stack lives in.

use std::fmt;
use std::str::FromStr;

/// The longest one, in bytes.
const MAX: usize = 1000;

/// A directory below the source, as few characters as it takes: `infra/prod/`, `./infra/prod` and
/// `infra//prod` are `infra/prod`, and `.` is all of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectRoot(String);

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "give a path of at most {MAX} bytes below the source's root, such as `network/prod`, without `..` and not beginning with `/`"
)]
pub struct InvalidProjectRoot;

impl ProjectRoot {
    /// The path; empty for all of the source.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is all of the source.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for ProjectRoot {
    type Err = InvalidProjectRoot;

    fn from_str(text: &str) -> Result<Self, InvalidProjectRoot> {
        let is_sound = text.len() <= MAX && !text.starts_with('/') && !text.contains('\0');
        let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if !is_sound || parts.contains(&"..") {
            return Err(InvalidProjectRoot);
        }
        Ok(Self(parts.join("/")))
    }
}

impl fmt::Display for ProjectRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_root_has_one_spelling() {
        for (given, meant) in [
            ("", ""),
            (".", ""),
            ("./", ""),
            ("./.", ""),
            ("x", "x"),
            ("./x", "x"),
            ("infra/prod/", "infra/prod"),
            ("infra//prod/.", "infra/prod"),
            (" a/\u{e9} b", " a/\u{e9} b"),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(given.parse::<ProjectRoot>().unwrap().as_str(), meant, "{given:?}");
        }
        for wrong in ["/", "/etc", "..", "a/../b", "./..", "a\0b", &"a/".repeat(501)] {
            assert!(wrong.parse::<ProjectRoot>().is_err(), "{wrong:?}");
        }
    }
}

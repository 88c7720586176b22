//! Ids. Each is a type of its own, so that a run cannot be passed where a worker is meant.
//!
//! Runs, pools, workers, sessions, journals and messages have ULIDs: 26 characters of Crockford's
//! base 32 that sort by time of creation. Stacks have slugs, which people choose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A text that is no id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id: {expected}")]
pub struct InvalidId {
    kind: &'static str,
    /// At most 64 characters of what was given.
    text: String,
    expected: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        Self { kind, text: text.chars().take(64).collect(), expected }
    }
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// The id with these bits: the upper 48 are milliseconds since 1970, the rest random.
            #[must_use]
            pub const fn from_ulid(ulid: Ulid) -> Self {
                Self(ulid)
            }

            /// Milliseconds since 1970 at which the id was made.
            #[must_use]
            pub const fn timestamp_ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let expected = "26 characters of 0-9 and A-Z without I, L, O and U";
                let ulid =
                    Ulid::from_string(text).map_err(|_| InvalidId::new($kind, text, expected))?;
                // One id has one spelling: lower case and look-alikes would be a second one.
                if ulid.to_string() == text {
                    Ok(Self(ulid))
                } else {
                    Err(InvalidId::new($kind, text, expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

ulid_id!(
    /// A pool: the workers that share one certificate, one queue and one key.
    PoolId,
    "pool"
);
ulid_id!(
    /// A worker: one slot of a pool.
    WorkerId,
    "worker"
);
ulid_id!(
    /// A run of a stack.
    RunId,
    "run"
);
ulid_id!(
    /// One standing of a launcher with its pool, from `welcome` to the end of the connection.
    SessionId,
    "session"
);
ulid_id!(
    /// A launcher's journal. A new one means that what the old one knew is lost.
    JournalId,
    "journal"
);
ulid_id!(
    /// One message. A message that is sent again keeps its id.
    MessageId,
    "message"
);

/// How often a run was offered; every message about the run carries it, so that a late one is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next offer.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stack's slug: 1 to 63 of a-z, 0-9 and `-`, neither first nor last a `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StackId(String);

impl StackId {
    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StackId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new("stack", text, "1 to 63 of a-z, 0-9 and -, not at either end"))
        }
    }
}

impl TryFrom<String> for StackId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<StackId> for String {
    fn from(id: StackId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = PoolId::from_ulid(Ulid::from_parts(1, 2));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_lowercase().replace('0', "o").parse::<PoolId>().is_err());
    }

    #[test]
    fn a_stack_id_is_a_slug() {
        assert!("network-prod".parse::<StackId>().is_ok());
        for wrong in ["", "-a", "a-", "A", "a/b", "../a", &"a".repeat(64)] {
            assert!(wrong.parse::<StackId>().is_err(), "{wrong}");
        }
    }
}

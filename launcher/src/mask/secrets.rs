//! The values to be masked, by the names of the variables that hold them.
//!
//! A value shorter than [`SHORTEST`] is refused, because masking it would eat ordinary text and tell
//! the value by what is missing; the refusal names the variable, never the value. Values are zeroed
//! when dropped and never printed.

use std::fmt;

use zeroize::Zeroizing;

/// The fewest bytes that a secret may have. Nothing is trimmed before counting.
pub const SHORTEST: usize = gantry_protocol::SHORTEST_MASKED;
/// The most bytes that a secret may have: what Linux allows for one environment variable.
pub const LONGEST: usize = 128 * 1024;
/// The most bytes that all secrets of a stage may have together.
pub const TOTAL: usize = 1024 * 1024;

/// A value that will not be masked. Names the variable, never the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of {name} is not masked: {reason}")]
pub struct Refusal {
    /// The variable.
    pub name: String,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a value is not masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// Fewer bytes than [`SHORTEST`].
    #[error(
        "it is shorter than {SHORTEST} bytes and would hide ordinary text; use a longer secret"
    )]
    TooShort,
    /// More bytes than [`LONGEST`].
    #[error(
        "it is longer than {LONGEST} bytes; split it, or mount it as a file and do not print it"
    )]
    TooLong,
    /// More bytes than [`TOTAL`] with the others.
    #[error("all secrets of the stage together are longer than {TOTAL} bytes; remove some")]
    TooMany,
}

/// A set of secrets.
#[derive(Clone, Default)]
pub struct Secrets {
    values: Vec<Zeroizing<Vec<u8>>>,
    total: usize,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} [redacted])", self.values.len())
    }
}

impl Secrets {
    /// No secrets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the value of the variable `name`; one that is there already is kept once.
    ///
    /// # Errors
    ///
    /// Refuses a value that is too short, too long, or more than the set can hold.
    pub fn insert(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal { name: name.to_owned(), reason });
        if value.len() < SHORTEST {
            return refuse(RefusalReason::TooShort);
        }
        if value.len() > LONGEST {
            return refuse(RefusalReason::TooLong);
        }
        if self.values.iter().any(|known| known.as_slice() == value) {
            return Ok(());
        }
        if self.total + value.len() > TOTAL {
            return refuse(RefusalReason::TooMany);
        }
        self.total += value.len();
        self.values.push(Zeroizing::new(value.to_vec()));
        Ok(())
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values, for the pattern builder only.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().map(|value| value.as_slice())
    }
}

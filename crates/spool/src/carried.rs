//! What hooks of one stage leave to the next one in the environment.

use serde::{Deserialize, Serialize};

use crate::order::Secret;

/// The largest file of them.
pub const MAX_CARRIED: u64 = 16 * 1024 * 1024;

/// A variable that hooks set, changed or took away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// What hooks made of it; none if they took it away.
    pub value: Option<Secret>,
    /// What the stage began with; none if it had no such variable.
    pub was: Option<Secret>,
}

//! Why an operation on pools, stacks and runs was not done.

use gantry_model::InvalidTransition;
use gantry_protocol::{CryptoError, RequestError, TokenError};

use crate::objects::ObjectsError;
use crate::store::StoreError;

/// Why an operation was not done. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no such thing.
    #[error("there is no {kind} {id:?}")]
    NotFound {
        /// What was looked for, such as `run`.
        kind: &'static str,
        /// At most 64 characters of what it should be called.
        id: String,
    },
    /// Something that was given is not acceptable.
    #[error("{what}: {problem}")]
    Invalid {
        /// What was given, such as `name`.
        what: &'static str,
        /// What is wrong with it and what to give instead.
        problem: String,
    },
    /// It does not fit what there is now.
    #[error("{0}")]
    Conflict(String),
    /// It does not fit the run's state.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store failed.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The certificate request cannot be signed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The pool's token cannot be made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl OperationError {
    pub(crate) fn not_found(kind: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { kind, id: id.to_string().chars().take(64).collect() }
    }

    pub(crate) fn invalid(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { what, problem: problem.into() }
    }
}

//! Errors as clients get them: a message that is safe to show, and what to do next where that can be
//! said.

use async_graphql::{Error, ErrorExtensions as _};

use crate::error::OperationError;

/// What clients look for when a session is missing or over.
pub(super) const UNAUTHORIZED: &str = "unauthorized";

/// The answer to a request without a session.
pub(super) fn unauthorized() -> Error {
    coded(Error::new(UNAUTHORIZED), "UNAUTHORIZED").extend_with(|_, it| {
        it.set("next", "open a session with apiKeyUser and send its jwt as bearer token");
    })
}

/// The answer to a login after too many that failed.
pub(super) fn too_many_logins(wait: u64) -> Error {
    let message = "too many logins from this address have failed: this one was not looked at";
    coded(Error::new(message), "TOO_MANY")
        .extend_with(|_, it| it.set("next", format!("try again in {wait} s")))
}

/// The answer when something does not exist.
pub(super) fn not_found(kind: &str, id: &str) -> Error {
    let id: String = id.chars().take(64).collect();
    coded(Error::new(format!("{kind} {id} not found")), "NOT_FOUND")
}

/// The answer when what was asked for makes no sense.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    coded(Error::new(message), "INVALID")
}

/// The answer when what was asked for does not fit what there is.
fn conflict(message: impl Into<String>) -> Error {
    coded(Error::new(message), "CONFLICT")
}

/// Why an operation was not done, as clients get it. What only an operator can act on is logged.
pub(super) fn refused(error: OperationError) -> Error {
    match error {
        OperationError::NotFound { kind, id } => not_found(kind, &id),
        OperationError::Invalid { .. } | OperationError::Request(_) => invalid(told(&error)),
        OperationError::Conflict(_) | OperationError::Transition(_) => conflict(error.to_string()),
        OperationError::Store(_)
        | OperationError::Objects(_)
        | OperationError::Token(_)
        | OperationError::Crypto(_) => {
            tracing::error!(error = &error as &dyn std::error::Error, "an API request failed");
            coded(Error::new(error.to_string()), "INTERNAL")
                .extend_with(|_, it| it.set("next", "look at the server's log"))
        }
    }
}

/// An error with its causes, which for what users send are about what they sent.
fn told(error: &OperationError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Makes none of what does not exist: public clients expect null there.
pub(super) fn found<T>(result: Result<T, OperationError>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(OperationError::NotFound { .. }) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

fn coded(error: Error, code: &'static str) -> Error {
    error.extend_with(|_, it| it.set("code", code))
}

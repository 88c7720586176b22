//! Whose fault it is that a stage did not get to its first phase: the run's, or this host's.
//!
//! What is the run's fault fails it, here as anywhere else. What is this host's is given back while the
//! stage only reads, so that another worker may have it; a few of those in a row make the worker unhealthy.

use std::io;

use gantry_model::Stage;
use gantry_protocol::message::StageOutcome;

use super::order::OrderError;
use super::prepare::PrepareError;
use super::state::StateError;
use crate::blob::BlobError;
use crate::engine::EngineError;
use crate::workspace::{ArchiveError, WorkspaceError};

/// An error before the first phase.
pub(super) trait Blame: std::error::Error {
    /// Whether it is this host's fault.
    fn is_ours(&self) -> bool;
}

/// How a stage ends that this host could not run and of which nothing has begun.
pub(super) const fn outcome(stage: Stage, reason: String) -> StageOutcome {
    match stage {
        Stage::Read => StageOutcome::GivenBack { reason },
        Stage::Write => StageOutcome::Failed { reason, phase: None, code: None },
    }
}

/// Whether it says that a disk is full or cannot be used, and not that something is wrong with a file.
pub(super) fn is_of_the_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    use rustix::io::Errno;
    let kinds = [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    let errors = [Errno::IO, Errno::MFILE, Errno::NFILE];
    kinds.contains(&error.kind())
        || error.raw_os_error().is_some_and(|raw| errors.iter().any(|it| it.raw_os_error() == raw))
}

/// Whether the engine did not answer: a wait that was called off too, because a stop and the time limit
/// are looked at before anybody is blamed.
const fn has_no_answer(error: &EngineError) -> bool {
    error.is_passing() || matches!(error, EngineError::CalledOff { .. })
}

/// Of making and starting: image, user and command were looked at before, so what is refused is how this
/// host's launcher or its engine is set up.
impl Blame for EngineError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Late { .. }
            | Self::Refused { .. }
            | Self::Setup(_)
            | Self::CalledOff { .. } => true,
        }
    }
}

impl Blame for BlobError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Io(error) => is_of_the_disk(error),
            Self::Ca
            | Self::Proxy(_)
            | Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Trouble { .. }
            | Self::Exists { .. }
            | Self::Refused { .. }
            | Self::Altered { .. }
            | Self::Unwanted { .. }
            | Self::CalledOff => false,
        }
    }
}

impl Blame for WorkspaceError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Io(error) | Self::Archive(ArchiveError::Io { source: error, .. }) => {
                is_of_the_disk(error)
            }
            Self::Archive(_)
            | Self::Seal(_)
            | Self::Open(_)
            | Self::NotSealed
            | Self::Source(_)
            | Self::NotOurs(_)
            | Self::Crypto(_) => false,
        }
    }
}

impl Blame for StateError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Blob(error) => error.is_ours(),
            Self::Io(error) | Self::NoRoom(error) => is_of_the_disk(error),
            Self::Open(_)
            | Self::NotOurs(_)
            | Self::NoState(_)
            | Self::Seal(_)
            | Self::Recipient
            | Self::Spool(_)
            | Self::Changed
            | Self::Crypto(_) => false,
        }
    }
}

impl Blame for OrderError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Io(error) => is_of_the_disk(error),
            Self::Engine(error) => has_no_answer(error),
            Self::State(error) => error.is_ours(),
            Self::Password(_) | Self::Json(_) | Self::TooLarge | Self::Source(_) => false,
        }
    }
}

impl Blame for PrepareError {
    fn is_ours(&self) -> bool {
        match self {
            Self::Blob(error) => error.is_ours(),
            Self::Workspace(error) => error.is_ours(),
            Self::Image { source, .. } => has_no_answer(source),
            Self::State(error) => error.is_ours(),
            // Whoever removes images here does not do so elsewhere.
            Self::Gone { .. } => true,
            Self::Unfit(_) | Self::PlannedIn { .. } | Self::CalledOff | Self::TooLarge { .. } => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever writes the object store would have every worker of the pool take nothing.
    #[test]
    fn an_altered_state_is_not_the_host_s_fault() {
        let altered = || BlobError::Altered { what: "state version", why: "its hash is different" };
        let of_order = OrderError::State(StateError::Blob(altered()));
        let of_preparing = PrepareError::State(StateError::Blob(altered()));
        assert!(!Blame::is_ours(&of_order) && !Blame::is_ours(&of_preparing));
        let full = || StateError::Io(io::ErrorKind::StorageFull.into());
        assert!(OrderError::State(full()).is_ours() && PrepareError::State(full()).is_ours());
    }

    #[test]
    fn an_engine_that_does_not_answer_is_the_host_s_fault() {
        let called_off = || EngineError::CalledOff { engine: "Fake" };
        assert!(OrderError::Engine(called_off()).is_ours());
        let image = String::new();
        assert!(PrepareError::Image { image, source: called_off() }.is_ours());
    }
}

//! What can go wrong with a spool.

use std::io;

use crate::{Position, SideName};

/// Why a spool could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused.
    #[error("cannot {action} {name:?} in the spool")]
    Io {
        /// What was tried, such as `open`.
        action: &'static str,
        /// The file within the spool.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The disk or its quota is full, or the spool's own limit is reached.
    #[error("the spool is full: free space on the launcher's disk")]
    Full,
    /// Bytes that no writer of this format leaves.
    #[error("the spool is corrupt at segment {}, byte {}: {what}", position.segment, position.offset)]
    Corrupt {
        /// Where the frame begins.
        position: Position,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by a later version of the format.
    #[error("the spool has format version {found}, this program reads version 1: upgrade it")]
    Version {
        /// The version found.
        found: u16,
    },
    /// A segment that was never consumed is gone, though a later one is there.
    #[error("segment {segment} of the spool is missing")]
    Missing {
        /// Its number.
        segment: u32,
    },
    /// Not a regular file: a link, a pipe, a device or a directory.
    #[error("{name:?} in the spool is not a regular file")]
    NotRegular {
        /// The file within the spool.
        name: String,
    },
    /// A side file is larger than the caller takes.
    #[error("{name} is {size} bytes, more than the {max} that are accepted")]
    TooLarge {
        /// The side file.
        name: SideName,
        /// How large it is.
        size: u64,
        /// How large it may be.
        max: u64,
    },
    /// An event that is larger than the format allows.
    #[error("an event of {size} bytes is more than the format's {max}")]
    EventTooLarge {
        /// Its size.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// Limits under which the writer could not work.
    #[error("a spool quota of {quota} bytes is less than the {min} that a writer needs")]
    QuotaTooSmall {
        /// The quota.
        quota: u64,
        /// The least.
        min: u64,
    },
}

impl SpoolError {
    pub(crate) fn io(action: &'static str, name: impl Into<String>, source: io::Error) -> Self {
        if is_full(&source) { Self::Full } else { Self::Io { action, name: name.into(), source } }
    }
}

/// The disk, or the user's share of it, has no room left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

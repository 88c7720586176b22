//! Where sources, logs, sealed workspaces and state versions are kept.
//!
//! An object is created once and never changed: a put of a key that exists is refused, whoever asks.
//! Launchers and the command line know no credentials, only urls signed for one object and a time.
//!
//! [`Objects`] is all that the rest of the control plane sees; S3 stays in [`s3`] and [`local`].

#[cfg(feature = "fake")]
pub mod fake;
pub mod local;
pub mod s3;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

#[cfg(feature = "fake")]
pub use fake::FakeObjects;
pub use local::LocalObjects;
pub use s3::S3Objects;

/// The bucket that holds everything.
pub const BUCKET: &str = "gantry";

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// The most keys that one [`Objects::list`] returns.
pub const MAX_LIST: usize = 1000;

/// The longest time for which an url can be signed: what S3 allows, seven days.
pub const MAX_TTL: Duration = Duration::from_hours(7 * 24);

/// An object as [`Objects::list`] names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why the object store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// No object has this key.
    #[error("no object {key:?}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// An object with this key exists: objects are only ever created.
    #[error("object {key:?} exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// The text is no key.
    #[error("{key:?} is not an object key: {expected}")]
    InvalidKey {
        /// At most 64 characters of what was given.
        key: String,
        /// What a key looks like.
        expected: &'static str,
    },
    /// The object is larger than the caller or the store takes.
    #[error("object {key:?} has more than {limit} bytes")]
    TooLarge {
        /// The key.
        key: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store is out of space.
    #[error("no space for object {key:?}: free some on the disk of the data directory")]
    NoSpace {
        /// The key.
        key: String,
    },
    /// The store failed, or did not answer in time. It may do better later.
    #[error("the object store failed to {act} {key:?}: check that it is reachable, then try again")]
    Failed {
        /// What was asked, such as `put`.
        act: &'static str,
        /// The key.
        key: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Keeps objects, and signs urls with which others can put and get them.
pub trait Objects: Send + Sync + 'static {
    /// Creates an object, durably. [`ObjectsError::Exists`] if there is one, even an equal one.
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), ObjectsError>>;

    /// The whole object, if it has at most `limit` bytes.
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, ObjectsError>>;

    /// The bytes of an object from `range.start` to before `range.end`; fewer, or none, if the object
    /// ends earlier. The caller bounds the range: the answer is held in memory.
    fn get_range<'a>(
        &'a self,
        key: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectsError>>;

    /// The object's size in bytes; `None` if there is no such object.
    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<u64>, ObjectsError>>;

    /// Removes an object. One that does not exist is no error.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), ObjectsError>>;

    /// Objects whose keys begin with `prefix` and come after `after`, in the order of their keys, at
    /// most `limit` and at most [`MAX_LIST`].
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Listed>, ObjectsError>>;

    /// An url with which anyone can GET the object for `ttl`, at most [`MAX_TTL`]. Signing asks
    /// nobody: the object need not exist.
    fn presign_get<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>>;

    /// An url with which anyone can create the object by a PUT for `ttl`, at most [`MAX_TTL`]. The PUT
    /// must carry the header `If-None-Match: *`, which is part of what is signed: the second PUT is
    /// answered with 412.
    fn presign_put<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, ObjectsError>>;
}

/// Checks that a text is a key: 1 to [`MAX_KEY`] bytes of segments parted by single `/`; a segment
/// has 1 to 255 of `A-Z a-z 0-9 - _ .` and does not begin with a dot. So no key leads anywhere else
/// when it is used as a path.
///
/// # Errors
/// [`ObjectsError::InvalidKey`]
pub fn check_key(key: &str) -> Result<(), ObjectsError> {
    let is_segment = |segment: &str| {
        (1..=255).contains(&segment.len())
            && !segment.starts_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if key.len() <= MAX_KEY && key.split('/').all(is_segment) {
        return Ok(());
    }
    Err(ObjectsError::InvalidKey {
        key: key.chars().take(64).collect(),
        expected: "names of A-Z, a-z, 0-9, -, _ and . that do not begin with a dot, separated by /",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_lead_out_of_its_bucket() {
        for key in ["log/01J/3/01K", "a", "state/network-prod/1-01J", "a.b/c_d"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in [
            "",
            "/",
            "/etc/passwd",
            "../../evil",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            ".hidden",
            "a/.hidden",
            "a\\..\\b",
            "a\0b",
            "a%2e%2e",
            "ä",
            "a b",
            "a\nb",
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        assert!(check_key(&"a".repeat(256)).is_err());
        assert!(check_key(&"a/".repeat(256)).is_err());
        assert!(check_key(&["a"; 256].join("/")).is_ok());
        assert!(check_key(&["a"; 257].join("/")).is_err());
    }
}

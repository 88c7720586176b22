//! The mark that a stage's first phase was started: once, ever.

use std::io;
use std::path::Path;

use rustix::fs::fsync;

use crate::SpoolError;
use crate::layout::{BEGUN, create_new, exists, open_dir};

/// Proof that this process, and no other, made the mark.
#[derive(Debug)]
#[must_use]
pub struct Begun(());

/// Why the mark was not made.
#[derive(Debug, thiserror::Error)]
pub enum BegunError {
    /// The stage was begun before: its phases must not run again.
    #[error("this stage was begun before; its phases are not run again")]
    Already,
    /// Nobody can say whether the mark is durable: nothing may run.
    #[error("cannot make the begun mark")]
    Unusable(#[source] SpoolError),
}

/// Makes the mark and waits until it is durable. Whoever gets [`Begun`] may run phases.
///
/// # Errors
/// [`BegunError::Already`] when the mark exists, whoever made it.
pub fn make_begun(dir: &Path) -> Result<Begun, BegunError> {
    let unusable = |error: io::Error| BegunError::Unusable(SpoolError::io("make", BEGUN, error));
    let dir = open_dir(dir).map_err(BegunError::Unusable)?;
    let file = match create_new(&dir, BEGUN) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BegunError::Already);
        }
        Err(error) => return Err(unusable(error)),
    };
    file.sync_all().map_err(unusable)?;
    fsync(&dir).map_err(|error| unusable(error.into()))?;
    Ok(Begun(()))
}

/// Whether the mark exists, as whatever kind of file.
///
/// # Errors
/// When the spool directory cannot be looked into: then nobody knows.
pub fn has_begun(dir: &Path) -> Result<bool, SpoolError> {
    exists(&open_dir(dir)?, BEGUN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_begins_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_begun(dir.path()).unwrap());
        let _begun = make_begun(dir.path()).unwrap();
        assert!(has_begun(dir.path()).unwrap());
        assert!(matches!(make_begun(dir.path()), Err(BegunError::Already)));
    }

    #[test]
    fn a_mark_that_cannot_be_seen_is_not_taken_for_none() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let _begun = make_begun(dir.path()).unwrap();
        // It can be opened and not be looked into.
        let closed = std::fs::Permissions::from_mode(0o444);
        std::fs::set_permissions(dir.path(), closed).unwrap();
        let path = dir.path().to_owned();
        let seen = std::thread::spawn(move || {
            if rustix::process::geteuid().is_root() {
                // This thread's alone.
                rustix::thread::set_thread_res_uid(
                    None,
                    rustix::process::Uid::from_raw(4242),
                    None,
                )
                .unwrap();
            }
            has_begun(&path)
        });
        assert!(matches!(seen.join().unwrap(), Err(SpoolError::Io { .. })));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn without_a_directory_nothing_begins() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(make_begun(&dir.path().join("none")), Err(BegunError::Unusable(_))));
        assert!(has_begun(&dir.path().join("none")).is_err());
    }
}

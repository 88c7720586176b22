//! Files that hold keys, tokens and state: readable by their owner only, and never half written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use zeroize::Zeroizing;

use crate::failure::{Explain as _, Failure};

/// Refuses a path at which something exists already, or at which nothing can be made.
pub fn must_be_free(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            access(folder(path), Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|error| cannot_write(path, error.into()))
        }
        Ok(_) => Err(taken(path)),
        Err(error) => {
            Err(Failure::new(format!("cannot look at {}", path.display())).because(error))
        }
    }
}

fn taken(path: &Path) -> Failure {
    Failure::new(format!("{} exists already, and is not overwritten", path.display()))
        .next("move it away, or give another path")
}

/// Writes a new file, 0600 and durable. What exists is never overwritten.
pub fn create(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(path)),
        Err(error) => return Err(cannot_write(path, error)),
    };
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.and_then(|()| sync_folder(path)).map_err(|error| {
        // Half a key helps nobody, and would stand in the way of the next try.
        let _already_failing = fs::remove_file(path);
        cannot_write(path, error)
    })
}

/// Writes a file, 0600, in place of what was there: a reader sees the old one or the new one.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    replace_with(path, |file| file.write_all(content))
}

/// The same with whatever `write` writes.
pub fn replace_with(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Failure> {
    let write = || {
        // Tried first, because the error of what follows names a file that nobody asked for.
        access(folder(path), Access::WRITE_OK | Access::EXEC_OK)?;
        let mut file = tempfile::Builder::new().prefix(".gantry-").tempfile_in(folder(path))?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(path)
    };
    write().map_err(|error| cannot_write(path, error))
}

/// Makes a directory for such files, 0700, with its parents.
pub fn private_folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_say(|| format!("cannot make the directory {}", path.display()))
}

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).or_say(cannot)?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(limit + 1).read_to_end(&mut content).or_say(cannot)?;
    if content.len() as u64 > limit {
        return Err(Failure::new(format!("{} is longer than {limit} bytes", path.display()))
            .next("check that this is the file that is meant"));
    }
    Ok(content)
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::new(format!("cannot write {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_file_is_its_owners_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.key");
        create(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create(&path, b"two").unwrap_err().to_string().contains("exists already"));
        assert_eq!(*read(&path, 10).unwrap(), b"one");
    }

    #[test]
    fn a_dangling_link_is_no_free_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.key");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(must_be_free(&path).is_err());
        assert!(create(&path, b"one").is_err());
    }

    #[test]
    fn a_place_in_no_directory_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/pool.key");
        for failure in [must_be_free(&path).unwrap_err(), replace(&path, b"one").unwrap_err()] {
            let said = failure.to_string();
            let expected = format!("cannot write {}: No such file", path.display());
            assert!(said.starts_with(&expected) && !said.contains(".gantry-"), "{said}");
            assert_eq!(failure.next_step(), Some("check the path"));
        }
    }

    #[test]
    fn a_replaced_file_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*read(&path, 10).unwrap(), b"two");
        assert!(read(&path, 2).is_err());
    }
}

//! What the first half of a run leaves to the second one beside its files: sealed and signed with them.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use gantry_spool::{Carried, MAX_CARRIED};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Directories, make_below, private, remove};

/// Within the workspace, beside the source: no source brings one.
const DIRECTORY: &str = ".gantry";
const FILE: &str = "handover.json";

/// What is handed over.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// What hooks made of the environment.
    pub environment: Vec<Carried>,
    /// The image in which it was planned.
    pub image: Option<PlannedIn>,
}

/// An image, whatever its name has come to mean since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedIn {
    /// What the engine calls it by its content.
    pub id: String,
    /// By which digests registries know it, `name@sha256:…`.
    pub digests: Vec<String>,
}

impl Handover {
    /// Puts it into a workspace in which nobody is at work any more, in place of whatever is there.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn put(&self, workspace: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        // A phase may have closed it, and given back it is ours.
        if fs::symlink_metadata(workspace)?.permissions().mode() & 0o700 != 0o700 {
            fs::set_permissions(workspace, fs::Permissions::from_mode(0o755))?;
        }
        let directory = workspace.join(DIRECTORY);
        remove(&directory)?;
        make_below(&directory, 0o700)?;
        let json = Zeroizing::new(serde_json::to_vec(self)?);
        io::Write::write_all(&mut private().create_new(true).open(directory.join(FILE))?, &json)
    }

    /// Takes it out of a workspace that was just opened, to beside it: it has what the first half of the run
    /// knew, and the workspace is mounted in the container of the second one.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn take_out(directories: &Directories) -> io::Result<()> {
        Self::remove(directories)?;
        let directory = directories.workspace.join(DIRECTORY);
        match fs::rename(directory.join(FILE), beside(&directories.workspace)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        remove(&directory)
    }

    /// Removes what was taken out.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn remove(directories: &Directories) -> io::Result<()> {
        match fs::remove_file(beside(&directories.workspace)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads what was taken out of a workspace, or what is still in it.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(workspace: &Path) -> io::Result<Self> {
        let within = || fs::File::open(workspace.join(DIRECTORY).join(FILE));
        // Another version of the launcher may have opened the workspace.
        let file = match fs::File::open(beside(workspace)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => within(),
            opened => opened,
        };
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened?,
        };
        let mut json = Zeroizing::new(Vec::new());
        file.take(2 * MAX_CARRIED).read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// In the attempt's own directory, which no container sees.
fn beside(workspace: &Path) -> PathBuf {
    workspace.with_file_name(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_whatever_a_phase_planted_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let workspace = root.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(Handover::read(&workspace).unwrap(), Handover::default());
        std::os::unix::fs::symlink(elsewhere.path(), workspace.join(DIRECTORY)).unwrap();
        let environment = vec![Carried { name: "A".into(), value: Some("1".into()), was: None }];
        let image = Some(PlannedIn { id: "sha256:1".into(), digests: Vec::new() });
        let handover = Handover { environment, image };
        handover.put(&workspace).unwrap();
        assert_eq!(Handover::read(&workspace).unwrap(), handover);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}

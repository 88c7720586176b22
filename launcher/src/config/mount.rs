//! Files and directories of the host that stages get to see.

use std::path::{Component, Path, PathBuf};

use gantry_model::Stage;

/// The most mounts of all three variables together.
pub const MAX_MOUNTS: usize = 64;
/// The longest path.
const MAX_PATH: usize = 4096;
/// Where a container has what is ours: nothing may cover it.
const OURS: [&str; 3] = ["/gantry", "/mnt/workspace", crate::tool::HOST_PROGRAMS];

/// What the kernel gives to a container: nothing may lie over it or in it.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// What may be mounted into those all the same.
const IN_KERNEL: [&str; 1] = ["/dev/shm"];
/// Whole directories of an image without which nothing in it starts, a shell least of all. Single files and
/// directories in them may be mounted.
const OF_THE_IMAGE: [&str; 10] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/etc",
];

/// In which stages something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stages {
    /// In both.
    All,
    /// In one.
    Only(Stage),
}

impl Stages {
    /// Whether `stage` is one of them.
    #[must_use]
    pub fn include(self, stage: Stage) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => only == stage,
        }
    }

    pub(super) fn overlap(self, other: Self) -> bool {
        [Stage::Read, Stage::Write]
            .iter()
            .any(|stage| self.include(*stage) && other.include(*stage))
    }
}

/// One file or directory of the host and where containers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its path on the host.
    pub host: PathBuf,
    /// Its path in the container.
    pub container: PathBuf,
    /// Which stages have it.
    pub stages: Stages,
}

/// Why an entry is no mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// Not two paths.
    #[error(
        "{0:?} is not of the form /host/path:/container/path: separate entries by commas, the two paths by one colon"
    )]
    Form(String),
    /// A relative path.
    #[error("{0:?} is not absolute: begin it with /")]
    Relative(String),
    /// `.` or `..` within a path.
    #[error("{0:?} has `.` or `..` in it: write the path out")]
    Dots(String),
    /// Far too long, or with control characters.
    #[error(
        "one of the paths is longer than {MAX_PATH} bytes or has control characters: correct it"
    )]
    Unprintable,
    /// Onto the root directory.
    #[error("nothing can be mounted onto / of a container: mount onto a directory of its own")]
    Root,
    /// Over something of ours.
    #[error("{0:?} would cover {1}, where the launcher keeps what runs need: mount elsewhere")]
    Covers(String, &'static str),
    /// Over or into what the kernel gives.
    #[error("{0:?} is or lies in {1}, which the kernel gives to every container: mount elsewhere")]
    Kernel(String, &'static str),
    /// Over what an image needs.
    #[error(
        "mounted onto {0}, it would hide everything that the image has there, its shell or what that needs: mount onto a directory or file of its own, such as /opt/tools or {0}/name"
    )]
    Hides(&'static str),
    /// It would give the launcher's own files to runs.
    #[error(
        "{0:?} holds {1:?}, where the launcher keeps its own files: runs must not get at them; mount another directory"
    )]
    Reveals(String, PathBuf),
    /// Two mounts at one place.
    #[error("{0:?} is mounted onto twice in the same stage: remove one of the entries")]
    Twice(String),
    /// More than [`MAX_MOUNTS`].
    #[error("there are more than {MAX_MOUNTS} mounts: mount a common directory instead")]
    TooMany,
}

/// Adds the entries of `text` to `mounts`, and what is wrong to `errors`.
pub(super) fn read(
    text: &str,
    stages: Stages,
    mounts: &mut Vec<Mount>,
    mut refuse: impl FnMut(InvalidMount),
) {
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match parse(entry, stages) {
            Err(error) => refuse(error),
            Ok(mount) if mounts.len() == MAX_MOUNTS => {
                drop(mount);
                return refuse(InvalidMount::TooMany);
            }
            Ok(mount) => match mounts.iter().find(|other| clash(other, &mount)) {
                Some(_) => refuse(InvalidMount::Twice(mount.container.display().to_string())),
                None => mounts.push(mount),
            },
        }
    }
}

/// What is wrong with mounts on a host where the launcher keeps its files in these directories.
pub(super) fn reveal(mounts: &[Mount], own: &[&Path]) -> Vec<InvalidMount> {
    let reveals = |mount: &Mount, own: &Path| own.starts_with(&mount.host);
    let found = mounts.iter().flat_map(|mount| {
        own.iter()
            .filter(|own| reveals(mount, own))
            .map(|own| InvalidMount::Reveals(mount.host.display().to_string(), own.to_path_buf()))
    });
    found.collect()
}

fn clash(one: &Mount, other: &Mount) -> bool {
    one.container == other.container && one.stages.overlap(other.stages)
}

fn parse(entry: &str, stages: Stages) -> Result<Mount, InvalidMount> {
    let (host, container) = entry
        .split_once(':')
        .filter(|(host, container)| !host.is_empty() && !container.is_empty())
        .filter(|(_, container)| !container.contains(':'))
        .ok_or_else(|| InvalidMount::Form(entry.chars().take(256).collect()))?;
    let (host, container) = (absolute(host)?, absolute(container)?);
    if container == Path::new("/") {
        return Err(InvalidMount::Root);
    }
    if let Some(ours) = OURS
        .iter()
        .find(|ours| container.starts_with(ours) || Path::new(ours).starts_with(&container))
    {
        return Err(InvalidMount::Covers(container.display().to_string(), ours));
    }
    let is_in = |place: &&&str| container.starts_with(place);
    if let Some(kernel) = KERNEL.iter().find(is_in)
        && !IN_KERNEL.iter().any(|allowed| container.starts_with(allowed))
    {
        return Err(InvalidMount::Kernel(container.display().to_string(), kernel));
    }
    if let Some(hidden) = OF_THE_IMAGE.iter().find(|place| container == Path::new(place)) {
        return Err(InvalidMount::Hides(hidden));
    }
    Ok(Mount { host, container, stages })
}

/// The path without doubled or final slashes.
pub(super) fn absolute(text: &str) -> Result<PathBuf, InvalidMount> {
    if text.len() > MAX_PATH || text.chars().any(char::is_control) {
        return Err(InvalidMount::Unprintable);
    }
    if !text.starts_with('/') {
        return Err(InvalidMount::Relative(text.to_owned()));
    }
    // `Path::components` drops a `.` silently.
    if text.split('/').any(|part| part == "." || part == "..") {
        return Err(InvalidMount::Dots(text.to_owned()));
    }
    Ok(Path::new(text).components().filter(|part| *part != Component::CurDir).collect())
}

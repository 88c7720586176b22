//! Where in the container everything is.

use std::path::PathBuf;

/// Where the launcher's directories are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Holds all that is the launcher's. No phase enters it.
    pub root: PathBuf,
    /// Holds the order and what belongs to it.
    pub order: PathBuf,
    /// The spool.
    pub spool: PathBuf,
    /// Where the image says who its users are.
    pub etc: PathBuf,
}

impl Places {
    /// As they are mounted in a run's container.
    #[must_use]
    pub fn container() -> Self {
        Self {
            root: PathBuf::from("/gantry"),
            order: PathBuf::from("/gantry/in"),
            spool: PathBuf::from("/gantry/spool"),
            etc: PathBuf::from("/etc"),
        }
    }
}

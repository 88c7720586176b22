//! The walls of the house, held by a check: who may depend on whom, what is named where, no circles, no long files.
//!
//! Each finding is a line with file and line number that says what to do. What does not hold yet stands in a list of
//! exceptions beside its rule; the check fails as well when an exception is not needed any more, so that the lists only
//! shrink.

mod dependencies;
mod exceptions;
mod length;
mod modules;
mod source;
mod words;

use std::path::Path;

use anyhow::Result;

use self::source::Sources;

/// Everything that breaks a rule, each as a line for a person. Empty if nothing does.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let sources = Sources::read(root)?;
    let mut broken = dependencies::broken(root)?;
    broken.extend(words::broken(&sources));
    broken.extend(modules::broken(&sources));
    broken.extend(length::broken(&sources));
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walls_stand() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let broken = broken(root).unwrap();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

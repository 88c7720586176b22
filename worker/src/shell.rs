//! Why a shell does not start, in the words of whoever made the image and the source.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;

/// Says why `shell` could not be started in `directory`, and what to do.
pub(crate) fn why_not(shell: &str, directory: &str, error: &io::Error) -> String {
    let is_missing =
        |path: &str| Path::new(path).metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound);
    let is = |errno| Errno::from_io_error(error) == Some(errno);
    let is_not_found = is(Errno::NOENT) || is(Errno::NOTDIR);
    if is_not_found && is_missing(shell) {
        format!(
            "the image has no shell: {shell} is not there, and it runs the tool and the hooks; use an image with a POSIX shell, not one made from scratch or without a distribution"
        )
    } else if is_not_found && !Path::new(directory).is_dir() {
        format!(
            "there is no directory {directory}: check the stack's project root, and whether a hook removed it"
        )
    } else if is_not_found {
        format!(
            "the image's {shell} does not start: the loader or interpreter that it names is not in the image; use an image that has it"
        )
    } else if is(Errno::ACCESS) {
        format!(
            "the image's user may not run {shell}, or not enter {directory}: {error}; check the image's USER and the modes of both"
        )
    } else if is(Errno::TOOBIG) {
        "the stack's variables are too large for the system: one of them has more than 128 KiB, its name included, or all of them together have too much; put large ones into files".to_owned()
    } else if is(Errno::NOEXEC) {
        let kind = std::env::consts::ARCH;
        format!(
            "the image's {shell} is no program of this host's kind ({kind}): use an image for it"
        )
    } else {
        format!("cannot start {shell} in {directory}: {error}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_keeps_a_shell_from_starting_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let made = |name: &str, content: &[u8]| {
            let path = place(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let why = |shell: &str, directory: &str| {
            // starts: sh
            let error = Command::new(shell).current_dir(directory).spawn().unwrap_err();
            why_not(shell, directory, &error)
        };
        let here = place("");
        let interpreted = made("interpreted", b"#!/no/such/interpreter\n");
        let foreign = made("foreign", b"\x7fELF\x02\x01\x01\0nothing that runs");
        for (shell, directory, words) in [
            (place("none"), here.as_str(), "the image has no shell"),
            (interpreted, &here, "loader or interpreter"),
            (foreign, &here, "of this host's kind"),
            ("/bin/sh".to_owned(), &place("gone"), "there is no directory"),
        ] {
            let said = why(&shell, directory);
            assert!(said.contains(words), "{shell} in {directory}: {said}");
        }
    }
}

//! Keys by stock `openssl`, sealed files by stock `age`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::finished;

/// Makes an RSA key and a request for it in `dir`. 2048 bits: the least that pools may have, and quick.
#[must_use]
pub fn openssl_key(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (key, request) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.csr")));
    let mut command = gantry_stand::request(2048, &key, &request);
    let ended = finished("openssl req", Duration::from_secs(60), &mut command);
    assert_eq!(ended.code, Some(0), "{}", ended.complaint());
    (key, request)
}

/// What stock `age` finds in a sealed file with this key; none if it does not open.
#[must_use]
pub fn opens(sealed: &Path, key: &Path) -> Option<Vec<u8>> {
    let mut command = Command::new("age");
    command.arg("-d").arg("-i").arg(key).arg(sealed);
    let ended = finished("age", Duration::from_secs(60), &mut command);
    (ended.code == Some(0)).then_some(ended.stdout)
}

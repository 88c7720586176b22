//! Side files: what is too large for a frame.
//!
//! A side file is written under a temporary name, made durable, renamed, and only then named by a
//! frame. It is never changed after that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_model::hex;
use rustix::fs::{AtFlags, fsync, renameat, unlinkat};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::{create_new, open_dir, open_regular};
use crate::{SideName, SpoolError};

/// A finished side file, as a frame names it. A reader checks size and hash before it trusts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideFile {
    /// Its name.
    pub name: SideName,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl SideFile {
    /// Whether it says what such a file can be.
    pub(crate) fn is_bounded(&self, name: SideName, max: u64) -> bool {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        self.name == name
            && self.size <= max
            && self.sha256.len() == 64
            && self.sha256.bytes().all(is_digit)
    }
}

/// Writes one side file. Dropped unfinished, it removes what it wrote.
#[derive(Debug)]
pub struct SideFileWriter {
    dir: OwnedFd,
    temporary: Option<String>,
    file: File,
    size: u64,
    max: u64,
    hash: Sha256,
}

impl SideFileWriter {
    /// Begins a side file of at most `max` bytes; `unique` tells apart those that are written at once.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(dir: &Path, unique: u64, max: u64) -> Result<Self, SpoolError> {
        let dir = open_dir(dir)?;
        let temporary = format!("side-{unique}.tmp");
        let file = create_new(&dir, &temporary)
            .map_err(|error| SpoolError::io("make", &temporary, error))?;
        Ok(Self { dir, temporary: Some(temporary), file, size: 0, max, hash: Sha256::new() })
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 of what was written so far, in lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// What was written so far, to read it back from its beginning.
    ///
    /// # Errors
    /// When the temporary file cannot be opened again.
    pub fn reopen(&self) -> Result<File, SpoolError> {
        let name = self.temporary.as_deref().unwrap_or_default();
        let file = open_regular(&self.dir, name)?;
        file.ok_or_else(|| SpoolError::io("open", name, io::ErrorKind::NotFound.into()))
    }

    /// Makes the file durable under its name, replacing one that has it.
    ///
    /// # Errors
    /// When the file system refuses; then nothing has the name.
    pub fn finish(mut self, name: SideName) -> Result<SideFile, SpoolError> {
        let failed = |error: io::Error| SpoolError::io("store", name.to_string(), error);
        self.file.sync_all().map_err(failed)?;
        let temporary = self.temporary.as_deref().unwrap_or_default();
        renameat(&self.dir, temporary, &self.dir, name.to_string())
            .map_err(|error| failed(error.into()))?;
        self.temporary = None;
        fsync(&self.dir).map_err(|error| failed(error.into()))?;
        Ok(SideFile { name, size: self.size, sha256: self.sha256() })
    }
}

impl Write for SideFileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if self.size.saturating_add(length) > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += u64::try_from(written).map_err(io::Error::other)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for SideFileWriter {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Left behind, it would only take room until the run's directory is removed.
            let _ = unlinkat(&self.dir, name.as_str(), AtFlags::empty());
        }
    }
}

/// Opens a side file of a spool that is not trusted; it is regular and at most `max` bytes large.
///
/// Read no more than `max` bytes from it all the same: a hostile writer can let it grow.
///
/// # Errors
/// When it is missing, no regular file or larger than `max`.
pub fn open_side_file(dir: &Path, name: SideName, max: u64) -> Result<File, SpoolError> {
    let text = name.to_string();
    let file = open_regular(&open_dir(dir)?, &text)?
        .ok_or_else(|| SpoolError::io("open", &text, io::ErrorKind::NotFound.into()))?;
    let size = file.metadata().map_err(|error| SpoolError::io("open", &text, error))?.len();
    if size > max { Err(SpoolError::TooLarge { name, size, max }) } else { Ok(file) }
}

/// The SHA-256 of `bytes` as side files have it: in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The same of everything that `source` gives.
///
/// # Errors
/// When reading fails.
pub fn sha256_of(mut source: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SideFileWriter::create(dir.path(), 1, 10).unwrap();
        writer.write_all(b"abc").unwrap();
        assert!(open_side_file(dir.path(), SideName::Plan, 10).is_err());
        let side = writer.finish(SideName::Plan).unwrap();
        assert_eq!(side.size, 3);
        assert_eq!(side.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut text = String::new();
        open_side_file(dir.path(), SideName::Plan, 10).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(matches!(
            open_side_file(dir.path(), SideName::Plan, 2),
            Err(SpoolError::TooLarge { size: 3, max: 2, .. })
        ));
    }

    #[test]
    fn an_unfinished_side_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SideFileWriter::create(dir.path(), 1, 4).unwrap();
        writer.write_all(b"abc").unwrap();
        assert_eq!(writer.write_all(b"de").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
